//! QEMU's monitor: JSON, a line each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    #[track_caller]
    pub(super) fn new(stream: UnixStream) -> Qmp {
        let mut qmp = Qmp { lines: BufReader::new(stream) };
        assert!(qmp.line()["QMP"].is_object());
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    /// The memory of the machine into an ELF core, by physical addresses. The machine should be stopped.
    #[track_caller]
    pub(crate) fn dump(&mut self, path: &Path) {
        let path = path.to_str().unwrap();
        self.run("dump-guest-memory", json!({ "paging": false, "protocol": format!("file:{path}") }));
    }

    #[track_caller]
    pub(crate) fn run(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        loop {
            let answer = self.line();
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
            // Else it is an event.
            assert!(answer.get("error").is_none(), "{command}: {answer}");
        }
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}
