//! Upgrades and downgrades between real programs of three versions, and what each of them says.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const V1: &str = env!("CARGO_BIN_EXE_counter-v1");
const V2: &str = env!("CARGO_BIN_EXE_counter-v2");
const V3: &str = env!("CARGO_BIN_EXE_counter-v3");
const UNTOLD: &str = env!("CARGO_BIN_EXE_counter-untold");

/// A running service. It is one process, whichever program runs in it.
struct Service {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Service {
    fn start(program: &str) -> Self {
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut service = Service { child, to, from };
        assert!(service.answer().ends_with(" begins"));
        service
    }

    fn say(&mut self, text: &str) {
        self.to.write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn answer(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("\n.\n") {
            assert!(self.from.read_line(&mut text).unwrap() > 0, "the service is gone, after {text:?}");
        }
        text.trim_end_matches("\n.\n").into()
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        self.say(&format!("{command}\n"));
        self.answer()
    }

    #[track_caller]
    fn upgrade(&mut self, to: &str, how: &str) -> String {
        self.ask(format!("upgrade {to} {how}").trim_end())
    }

    /// Which file runs, as the kernel says it.
    fn runs(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/exe", self.child.id())).unwrap()
    }

    /// It answers as before, and it is that program that does.
    #[track_caller]
    fn serves(&mut self, program: &str, total: u64, history: &str) {
        assert_eq!(self.runs(), PathBuf::from(program));
        assert_eq!((self.ask("get"), self.ask("history")), (total.to_string(), history.to_owned()));
        assert_eq!(self.ask("version"), PathBuf::from(program).file_name().unwrap().to_str().unwrap());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_upgrade_keeps_the_state_and_the_file() {
    let mut service = Service::start(V1);
    assert_eq!((service.ask("add 3"), service.ask("add 4")), ("3".into(), "7".into()));
    service.serves(V1, 7, "3 4");
    assert_eq!(service.upgrade(V2, ""), "leaving with test-counter-v1\ncounter-v2 took over");
    // Of what was added, the first version told nothing.
    service.serves(V2, 7, "");
    assert_eq!(service.ask("add 5"), "12");
    assert_eq!(service.ask("log"), "counter-v1 added 3\ncounter-v1 added 4\ncounter-v2 added 5");
}

#[test]
fn a_downgrade_is_written_as_the_older_program_reads_it_and_says_what_it_leaves_out() {
    let mut service = Service::start(V2);
    service.ask("add 40");
    service.ask("add 2");
    assert_eq!(service.ask("hint the door is open"), "kept");
    let left = "leaving with test-counter-v1, without hints \
                (component-unknown: found test-hints-v1, expected a component that this reader knows)";
    assert_eq!(service.upgrade(V1, ""), format!("{left}\ncounter-v1 took over"));
    service.serves(V1, 42, "");
    assert_eq!(service.ask("hints"), "this version has no hints");
}

#[test]
fn two_of_one_version_keep_all_of_it() {
    let mut service = Service::start(V2);
    service.ask("add 40");
    service.ask("add 2");
    service.ask("hint the door is open");
    assert_eq!(service.upgrade(V2, ""), "leaving with test-counter-v2;block-v1\ncounter-v2 took over");
    service.serves(V2, 42, "40 2");
    assert_eq!(service.ask("hints"), "the door is open");
    let mut service = Service::start(V3);
    assert_eq!(service.upgrade(V3, ""), "leaving with test-counter-v3;vmalloc-v1\ncounter-v3 took over");
    service.ask("add 5");
    assert_eq!(service.upgrade(V3, ""), "leaving with test-counter-v3;vmalloc-v1\ncounter-v3 took over");
    service.serves(V3, 5, "5");
}

#[test]
fn to_and_fro() {
    let mut service = Service::start(V1);
    let mut total = 0;
    for (round, (from, to)) in [(V1, V2), (V2, V1), (V1, V2), (V2, V1), (V1, V2)].into_iter().enumerate() {
        assert_eq!(service.runs(), PathBuf::from(from));
        total += round as u64;
        assert_eq!(service.ask(&format!("add {round}")), total.to_string());
        let said = service.upgrade(to, "");
        assert!(said.starts_with("leaving with test-counter-v1") && said.ends_with(" took over"), "{said}");
        service.serves(to, total, "");
    }
    assert_eq!(service.ask("log").lines().count(), 5);
}

#[test]
fn a_successor_that_reads_no_version_of_ours_is_refused_before_leaving() {
    let mut service = Service::start(V1);
    service.ask("add 7");
    for how in ["", "only-if-told"] {
        let said = service.upgrade(V3, how);
        assert_eq!(said, "stayed: version-older: /counter: found test-counter-v1, expected test-counter-v3");
        service.serves(V1, 7, "7");
    }
    // Who does not write for it is stopped by the question.
    let said = "leaving with test-counter-v1\nstayed: the program would refuse the handover:\n\
                error: /counter: version-older: compatible: found test-counter-v1, expected test-counter-v3";
    assert_eq!(service.upgrade(V3, "as-is"), said);
    service.serves(V1, 7, "7");
    assert_eq!(service.ask("add 1"), "8");
    assert_eq!(service.upgrade(V2, ""), "leaving with test-counter-v1\ncounter-v2 took over");
    service.serves(V2, 8, "");
}

const V2_AT_V3: &str = "\
error: /counter: version-older: compatible: found test-counter-v2, expected test-counter-v3
warning: /hints: component-dropped: compatible: found test-hints-v1, expected test-hints-v2";

#[test]
fn the_plan_at_the_door_says_what_the_forecast_said_and_the_predecessor_comes_back() {
    let mut service = Service::start(V2);
    service.ask("add 30");
    service.ask("add 4");
    service.ask("hint turn left");
    assert_eq!(service.ask(&format!("forecast {V3}")), format!("refused:\n{V2_AT_V3}"));
    let stayed = "leaving with test-counter-v2;block-v1\nstayed: the program would refuse the handover:";
    assert_eq!(service.upgrade(V3, "as-is"), format!("{stayed}\n{V2_AT_V3}"));
    let back = "leaving with test-counter-v2;block-v1\ncounter-v2 took over\nback, because the successor said:";
    assert_eq!(service.upgrade(V3, "without-asking"), format!("{back}\n{V2_AT_V3}"));
    service.serves(V2, 34, "30 4");
    assert_eq!((service.ask("hints"), service.ask("add 1")), ("turn left".into(), "35".into()));
    // As often as it is tried; and the way back leads on.
    assert_eq!(service.upgrade(V3, "without-asking"), format!("{back}\n{V2_AT_V3}"));
    assert_eq!(service.upgrade(V2, ""), "leaving with test-counter-v2;block-v1\ncounter-v2 took over");
    service.serves(V2, 35, "30 4 1");
}

/// What comes back is what was written: for an older successor that is less than there was.
#[test]
fn a_successor_that_cannot_restore_goes_back_too() {
    let mut service = Service::start(V2);
    service.ask("add 30");
    service.ask("add 4");
    service.ask("hint turn left");
    let back = "counter-v2 took over\nback, because the successor said:\n/counter: refused: told to";
    assert_eq!(service.upgrade(V2, "fails"), format!("leaving with test-counter-v2;block-v1\n{back}"));
    service.serves(V2, 34, "30 4");
    assert_eq!(service.ask("hints"), "turn left");
    let said = service.upgrade(V1, "fails");
    assert!(said.starts_with("leaving with test-counter-v1, without hints (") && said.ends_with(back), "{said}");
    service.serves(V2, 34, "");
    assert_eq!(service.ask("hints"), "");
}

/// For every pair of programs.
#[test]
fn every_forecast_is_what_the_door_says() {
    for from in [V1, V2, V3] {
        for to in [V1, V2, V3] {
            let mut service = Service::start(from);
            service.ask("add 1");
            let forecast = service.ask(&format!("forecast {to}"));
            let (verdict, foretold) = forecast.split_once(":\n").unwrap();
            let said = service.upgrade(to, "without-asking");
            let mut lines = said.lines().skip(2);
            if verdict == "refused" {
                assert_eq!(lines.next(), Some("back, because the successor said:"));
            }
            assert_eq!(lines.collect::<Vec<_>>().join("\n"), foretold, "{from} to {to}");
            assert_eq!(service.runs(), PathBuf::from(if verdict == "refused" { from } else { to }));
            assert_eq!(service.ask("get"), "1");
        }
    }
}

#[test]
fn a_newer_version_than_the_successor_reads_is_told_as_newer() {
    let mut service = Service::start(V3);
    let said = "stayed: version-newer: /counter: found test-counter-v3, expected test-counter-v1..=v2";
    assert_eq!(service.upgrade(V2, ""), said.replace("v1..=v2", "v2"));
    assert_eq!(service.ask("get"), "0");
}

#[test]
fn who_says_what_it_writes_leaves_for_who_says_what_it_reads() {
    let mut service = Service::start(V2);
    service.ask("add 6");
    let left = "leaving with test-counter-v2;block-v1";
    // Any other program would take the state with it.
    for (program, how) in [(UNTOLD, ""), (UNTOLD, "as-is"), (UNTOLD, "only-if-told"), ("/bin/true", "")] {
        let said = service.upgrade(program, how);
        assert_eq!(said, format!("{left}\nstayed: the program does not say what it reads: it has no manifest"));
        service.serves(V2, 6, "6");
    }
    assert_eq!(service.ask(&format!("forecast {UNTOLD}")), "it does not say");
    assert_eq!(service.upgrade(UNTOLD, "even-if-untold"), format!("{left}\ncounter-untold took over"));
    service.serves(UNTOLD, 6, "6");
    // Who says nothing himself asks only whether he would be refused.
    assert_eq!(service.upgrade(UNTOLD, ""), format!("{left}\ncounter-untold took over"));
    assert_eq!(service.upgrade(V2, "only-if-told"), format!("{left}\ncounter-v2 took over"));
}

#[test]
fn what_the_older_version_cannot_say_is_the_components_own_fault() {
    let mut service = Service::start(V2);
    assert_eq!(service.ask("add 4294967295"), "4294967295");
    let said = service.upgrade(V1, "");
    assert!(said.ends_with("\ncounter-v1 took over"), "{said}");
    let said = service.upgrade(V2, "");
    assert!(said.ends_with("\ncounter-v2 took over"), "{said}");
    assert_eq!(service.ask("add 1"), "4294967296");
    let said =
        "stayed: too-large: total: found 4294967296, expected at most 4294967295, all that test-counter-v1 can say";
    assert_eq!(service.upgrade(V1, ""), said);
    service.serves(V2, 4_294_967_296, "1");
}

#[test]
fn commands_behind_an_upgrade_are_the_successors() {
    let mut service = Service::start(V1);
    service.say(&format!("add 2\nupgrade {V2}\nadd 3\nversion\nupgrade {V1}\nversion\nget\n"));
    let answers: Vec<String> = (0..7).map(|_| service.answer()).collect();
    assert_eq!(answers[2..4], ["5", "counter-v2"]);
    assert_eq!(answers[5..], ["counter-v1", "5"]);
}

/// A copy of the second version whose note says something else: four bytes at that offset of its description.
fn altered(folder: &Path, at: usize, bytes: [u8; 4]) -> String {
    let mut image = std::fs::read(V2).unwrap();
    let note = b"\x01\0\0\0kho\0\x01\0\0\0\x0c\0\0\0";
    let found: Vec<usize> = (0..image.len() - note.len()).filter(|at| image[*at..].starts_with(note)).collect();
    assert_eq!(found.len(), 1, "the note stands once");
    let at = found[0] + 8 + at;
    image[at..at + 4].copy_from_slice(&bytes);
    let path = folder.join(format!("altered-{at:x}"));
    std::fs::write(&path, image).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_manifest_from_the_future_is_as_none_and_a_broken_one_keeps_the_predecessor() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(V2);
    service.ask("add 9");
    let left = "leaving with test-counter-v2;block-v1";
    let newer = altered(folder.path(), 0, 2_u32.to_le_bytes());
    let why = "version-newer: version: found kho-manifest-v2, expected kho-manifest-v1";
    let said = service.upgrade(&newer, "only-if-told");
    assert_eq!(said, format!("{left}\nstayed: the program does not say what it reads: {why}"));
    service.serves(V2, 9, "9");
    assert_eq!(service.upgrade(&newer, "even-if-untold"), format!("{left}\ncounter-v2 took over"));
    assert_eq!((service.runs(), service.ask("get")), (PathBuf::from(newer), "9".into()));

    let mut service = Service::start(V2);
    let broken = altered(folder.path(), 8, 4000_u32.to_le_bytes());
    let why = "truncated: entries[8].size at offset 0x118: 0 bytes";
    for how in ["as-is", "only-if-told", ""] {
        let said = service.upgrade(&broken, how);
        assert!(said.ends_with(why) && said.contains("stayed: "), "{said}");
    }
    let said = format!("{left}\nstayed: the program's manifest cannot be read: {why}");
    assert_eq!(service.upgrade(&broken, "as-is"), said);
    service.serves(V2, 0, "");
    // Who does not ask, does not read it.
    assert_eq!(service.upgrade(&broken, "without-asking"), format!("{left}\ncounter-v2 took over"));
}
