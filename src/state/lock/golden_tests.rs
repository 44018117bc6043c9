//! A project through its releases: what is written, what is kept, what is refused.

use std::fs;
use std::path::Path;
use std::string::{String, ToString as _};
use std::{assert, assert_eq, format, vec};

use super::{Case, Lock, Suite};
use crate::state::State;

mod v1 {
    use crate::state::State;

    #[derive(State)]
    #[state(id = 7, version = 1)]
    pub(super) struct Timer {
        pub(super) deadline: u64,
    }
}

mod v2 {
    use crate::state::State;

    #[derive(State)]
    #[state(id = 7, version = 2)]
    pub(super) struct Timer {
        pub(super) deadline: u64,
        #[state(since = 2, default)]
        pub(super) slack: u32,
    }
}

mod v2_again {
    use crate::state::State;

    #[derive(State)]
    #[state(id = 7, version = 2)]
    pub(super) struct Timer {
        pub(super) deadline: u64,
        #[state(since = 2, default)]
        pub(super) slack: u64,
    }
}

mod v3 {
    use crate::state::State;

    #[derive(State)]
    #[state(id = 7, version = 3, min_version = 2)]
    pub(super) struct Timer {
        pub(super) deadline: u64,
        pub(super) slack: u32,
        #[state(since = 3, default)]
        pub(super) on: bool,
    }
}

fn project(folder: &Path, case: Case) -> Suite {
    Suite::new(folder, vec![case])
}

fn one(folder: &Path) -> Suite {
    project(folder, Case::new(|| v1::Timer { deadline: 5 }, |timer, _| assert_eq!(timer.deadline, 5)))
}

fn two(folder: &Path) -> Suite {
    project(folder, Case::new(|| v2::Timer { deadline: 5, slack: 6 }, |_, _| ()))
}

fn three(folder: &Path) -> Suite {
    project(folder, Case::new(|| v3::Timer { deadline: 5, slack: 6, on: true }, |_, _| ()))
}

fn begin() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state.lock"), "").unwrap();
    folder
}

fn lock(folder: &Path) -> Lock {
    Lock::parse(&fs::read_to_string(folder.join("state.lock")).unwrap()).unwrap()
}

/// What the test of one file says.
fn blob(suite: &Suite, folder: &Path, file: &str) -> Result<(), String> {
    suite.blob(&lock(folder), file, &fs::read(folder.join(file)).unwrap())
}

#[test]
fn a_project_through_its_releases() {
    let folder = begin();
    let path = folder.path();
    let error = one(path).verify().unwrap_err();
    assert!(
        error.ends_with(
            "state.lock disagree:\nstate-lock: timer: found version 1 of id 7, expected it in the lock\n  KHO_BLESS=1 \
             cargo test adds it"
        ),
        "{error}"
    );
    one(path).bless(Some("vmm 1.0")).unwrap();
    one(path).verify().unwrap();
    let first = fs::read(path.join("timer-v1.state")).unwrap();

    // A new version: told, then added beside the first, whose bytes stay.
    assert!(two(path).verify().unwrap_err().contains("found version 2, expected it in the lock"));
    two(path).bless(None).unwrap();
    two(path).verify().unwrap();
    for file in ["timer-v1.state", "timer-v2.state"] {
        blob(&two(path), path, file).unwrap();
    }

    // Not published yet: another type under it is blessed again, with its file.
    let before = fs::read(path.join("timer-v2.state")).unwrap();
    let other = project(path, Case::new(|| v2_again::Timer { deadline: 5, slack: 6 }, |_, _| ()));
    assert!(other.verify().unwrap_err().contains("timer version 2 is not published"));
    other.bless(None).unwrap();
    assert_ne!(fs::read(path.join("timer-v2.state")).unwrap(), before);
    two(path).bless(Some("vmm 1.1")).unwrap();
    assert_eq!(fs::read(path.join("timer-v2.state")).unwrap(), before);

    // Published: never again.
    let error = other.bless(None).unwrap_err();
    assert_eq!(
        error,
        "nothing was written, because no blessing changes this:\nstate-lock: timer.slack: found u64, expected u32 in \
         version 2: another type is another field, version = 3, since = 3\n  timer version 2 is published (vmm 1.1) \
         and never changes"
    );
    assert_eq!(fs::read(path.join("timer-v1.state")).unwrap(), first);

    // The first is no longer read: on purpose.
    assert!(three(path).verify().unwrap_err().contains("marks what is no longer read retired"));
    three(path).bless(None).unwrap();
    three(path).verify().unwrap();
    blob(&three(path), path, "timer-v1.state").unwrap();
    fs::remove_file(path.join("timer-v1.state")).unwrap();
    three(path).verify().unwrap();
    assert!(lock(path).sections[&(7, 1)].retired);
}

#[test]
fn files_that_were_lost_or_changed() {
    let folder = begin();
    let path = folder.path();
    two(path).bless(Some("vmm 1.0")).unwrap();
    let file = path.join("timer-v1.state");
    let good = fs::read(&file).unwrap();

    fs::write(&file, [&good[..], b"x"].concat()).unwrap();
    let end = "\n  timer version 2 is published (vmm 1.0) and never changes";
    let changed = format!(
        "state-lock: timer-v1.state: found other bytes, expected those that the lock has: get them back from the \
         history{end}"
    );
    assert!(two(path).verify().unwrap_err().ends_with(&changed));
    assert!(two(path).bless(None).unwrap_err().ends_with(&changed));

    fs::remove_file(&file).unwrap();
    assert!(two(path).bless(None).unwrap_err().contains("the file that the lock has: get it back from the history"));
    fs::write(&file, good).unwrap();
    fs::write(path.join("mine.state"), "").unwrap();
    assert!(two(path).verify().unwrap_err().contains("mine.state: a file that the lock does not know"));
}

#[test]
fn code_that_reads_it_otherwise() {
    let folder = begin();
    let path = folder.path();
    two(path).bless(Some("vmm 1.0")).unwrap();
    let other = project(path, Case::new(|| v2_again::Timer { deadline: 5, slack: 6 }, |_, _| ()));
    assert_eq!(
        blob(&other, path, "timer-v2.state").unwrap_err(),
        "timer-v2.state: what version 2 of timer saved is not restored any more: state-field: timer.slack: found u32, \
         expected u64, in version 2"
    );
    // The same description, and other values.
    let other = project(path, Case::new(|| v2::Timer { deadline: 5, slack: 7 }, |_, _| ()));
    assert_eq!(
        blob(&other, path, "timer-v2.state").unwrap_err(),
        "timer-v2.state: restored it is not the sample: timer.slack is 6, and 7 in the sample\n  as long as version 2 \
         is not published, KHO_BLESS=1 cargo test writes it anew; afterwards the sample stays as it is until the next \
         version"
    );
    blob(&other, path, "timer-v1.state").unwrap();
    assert!(other.bless(None).unwrap_err().starts_with("nothing was written: timer-v2.state: restored"));
}

#[test]
fn a_sample_that_an_old_version_cannot_say() {
    #[derive(State)]
    #[state(id = 8, version = 2)]
    enum Mode {
        #[state(tag = 1)]
        Off,
        #[state(tag = 2, since = 2)]
        On,
    }
    let folder = begin();
    let path = folder.path();
    let error = project(path, Case::new(|| Mode::On, |_, _| ())).bless(None).unwrap_err();
    assert!(error.starts_with("mode-v1.state: the sample cannot be written in version 1: state-older: "), "{error}");
    assert!(error.ends_with("begin with a sample that every version can say; later ones may have more"), "{error}");
    assert_eq!(fs::read_dir(path).unwrap().count(), 1, "nothing was written");
    project(path, Case::new(|| Mode::Off, |_, _| ())).bless(None).unwrap();
    // What is there stays, and the sample may be a newer one.
    let first = fs::read(path.join("mode-v1.state")).unwrap();
    let mut lock = lock(path);
    lock.publish("vmm 1.0");
    assert_eq!(lock.to_string().matches("published vmm 1.0").count(), 1);
    assert_eq!(fs::read(path.join("mode-v1.state")).unwrap(), first);
}

#[test]
fn an_empty_release_or_no_lock_is_said() {
    let folder = begin();
    assert_eq!(one(folder.path()).bless(Some(" ")).unwrap_err(), "KHO_PUBLISH is a release, as \"vmm 1.4\"");
    fs::remove_file(folder.path().join("state.lock")).unwrap();
    assert!(one(folder.path()).verify().unwrap_err().contains("a project begins with an empty one: touch "));
}
