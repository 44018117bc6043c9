//! The lock as a text.

use super::*;

#[test]
fn the_text_is_read_again_as_it_was() {
    let lock = lock(true, &[Vcpu::SHAPE, Mode::SHAPE]);
    let text = lock.to_string();
    assert_eq!(Lock::parse(&text).unwrap(), lock);
    let (vcpu, mode) = (lock.sections[&(7, 2)].fingerprint(), lock.sections[&(8, 2)].fingerprint());
    let expected = format!(
        "
state vcpu id 7 version 2 from 1
  published vmm 1.0
  fingerprint {vcpu:016x}
    id    u32
    regs  [u64; 18]  under a condition
    old   u16  until 2
    tsc   u64  since 2
  subsection lapic id 9 required

enum mode id 8 version 2 from 1 ignorable
  published vmm 1.0
  fingerprint {mode:016x}
  variant 1 running
  variant 2 paused
    at  u64
  variant 3 moving since 2
    0  u32  since 2
"
    );
    assert!(text.contains(&expected), "{text}");
    assert_eq!(told(&[Vcpu::SHAPE, Mode::SHAPE], &[Vcpu::SHAPE, Mode::SHAPE]), [""; 0]);
}

#[test]
fn a_lock_that_was_edited_by_hand() {
    let text = lock(true, &[Vcpu::SHAPE, Mode::SHAPE]).to_string();
    let line = |broken: &str| Lock::parse(broken).map_err(|error| error.to_string()).unwrap_err();
    assert!(line(&text.replace("u16  until 2", "u32  until 2")).contains("it was edited by hand"));
    assert!(line("    id  u32\n").contains("line 1: no state before it"));
    assert!(line("state a id 1 version 1\n").contains("`state NAME id N version N from N`"));
    let twice = format!("{text}{}", text.split_once("\n\n").unwrap().1);
    assert!(line(&twice).contains("a second section of id 7, version 2"));
    assert!(line("state a id 1 version 1 from 1\n  blob 1 ../x 00\n").contains("`blob VERSION FILE FINGERPRINT`"));
    assert!(line("state a id 1 version 1 from 1\n  fields\n").contains("`subsection NAME id N required`"));
    // Who published it is no part of the layout.
    assert!(Lock::parse(&text.replace("vmm 1.0", "vmm 1.1")).is_ok());
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_lock_or_an_error(
        text in "([a-z0-9 \n]|  |    |state a id 1 version 1 from 1\n|enum |variant |blob |fingerprint |  since ){0,200}"
    ) {
        let _ = Lock::parse(&text);
    }
}
