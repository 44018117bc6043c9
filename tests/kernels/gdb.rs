//! As much of GDB's remote protocol as stops a machine at an address.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

pub(crate) struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// QEMU stops the machine when a debugger connects.
    #[track_caller]
    pub(super) fn new(stream: UnixStream) -> Gdb {
        let mut gdb = Gdb { stream };
        // Why it stopped: also shows that somebody listens.
        assert!(gdb.ask("?").starts_with(['T', 'S']));
        gdb
    }

    /// Lets it run until it comes to the address, by a breakpoint in hardware, which changes no memory.
    #[track_caller]
    pub(crate) fn run_to(&mut self, address: u64) {
        // Away from where it is, which may be that address.
        assert!(self.ask("s").starts_with("T05"));
        assert_eq!(self.ask(&format!("Z1,{address:x},1")), "OK", "a breakpoint at {address:#x}");
        let stop = self.ask("c");
        assert!(stop.starts_with("T05"), "it stopped for another reason: {stop}");
        assert_eq!(self.ask(&format!("z1,{address:x},1")), "OK");
    }

    /// Lets it run, and says nothing more to it.
    pub(crate) fn detach(mut self) {
        assert_eq!(self.ask("D"), "OK");
    }

    /// Sends a command and returns the answer. Both ends acknowledge each packet with `+`.
    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        let sum = command.bytes().fold(0_u8, u8::wrapping_add);
        self.stream.write_all(format!("${command}#{sum:02x}").as_bytes()).unwrap();
        loop {
            match self.byte() {
                b'+' => break,
                // It says by itself that it stopped for the debugger.
                b'$' => drop(self.packet()),
                byte => panic!("{:?} after {command}", char::from(byte)),
            }
        }
        assert_eq!(self.byte(), b'$', "the answer to {command}");
        self.packet()
    }

    /// The rest of a packet.
    #[track_caller]
    fn packet(&mut self) -> String {
        let mut answer = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => answer.push(byte),
            }
        }
        let sum = [self.byte(), self.byte()];
        let expected = format!("{:02x}", answer.iter().copied().fold(0_u8, u8::wrapping_add));
        assert_eq!(expected.as_bytes(), sum, "the checksum of {answer:?}");
        self.stream.write_all(b"+").unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[track_caller]
    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("the debugger's stub says nothing more");
        byte[0]
    }
}
