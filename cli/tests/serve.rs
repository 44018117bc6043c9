//! `kho serve-demo`, as a user runs it.

mod common;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{json, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Processes that a command with that number started, and that are still there.
fn servers_of(command: u32) -> Vec<String> {
    let parent = format!("--parent\0{command}\0");
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process = entry.ok()?.path();
        let line = String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).ok()?).into_owned();
        line.contains(&parent).then(|| format!("{}: {}", process.display(), line.replace('\0', " ")))
    });
    all.collect()
}

/// What it prints as JSON when it succeeds; no process is left.
#[track_caller]
fn serves(args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kho"));
    command.arg("serve-demo").args(args).args(["--format", "json"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{}: {errors}\n{text}", output.status);
    assert_eq!(servers_of(pid), [""; 0]);
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// The steps of one side.
fn steps(report: &Value, of: &str) -> Vec<String> {
    let timings = report["timings"].as_array().unwrap().iter();
    let whole = timings.filter(|timing| timing["of"] == of && timing["node"] == "/");
    whole.map(|timing| timing["step"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_is_lost_by_any_transport_and_whoever_is_killed() {
    let report =
        serves(&["--transport", "all", "--upgrades", "2", "--clients", "4", "--seconds", "0.3", "--kill", "10"]);
    let schema = serde_json::from_str(&run(0, &["schema", "serve-demo"])).unwrap();
    jsonschema::validate(&schema, &report).unwrap();
    assert_eq!((&report["fine"], &report["clients"]), (&true.into(), &4.into()));
    let transports = report["transports"].as_array().unwrap();
    let names: Vec<&Value> = transports.iter().map(|stage| &stage["transport"]).collect();
    assert_eq!(names, ["exec", "keeper", "unix"]);
    for stage in transports {
        let counts = &stage["counts"];
        assert!(number(&counts["sent"]) > 100 && counts["sent"] == counts["answered"], "{counts}");
        for none in ["lost", "wrong", "closed", "refused"] {
            assert_eq!(counts[none], 0, "{none}: {counts}");
        }
        assert!(number(&counts["connections"]) > 4, "{counts}");
        let latency = &stage["latency_ns"];
        let during = number(&latency["during_upgrades"]["requests"]);
        assert!(number(&latency["at_rest"]["requests"]) > during && during > 0, "{latency}");
        assert!(number(&latency["at_rest"]["p50"]) <= number(&latency["at_rest"]["p99.9"]), "{latency}");

        let upgrades = stage["upgrades"].as_array().unwrap();
        assert_eq!(upgrades.len(), 2);
        for upgrade in upgrades {
            let report = &upgrade["report"];
            let blackout = number(&report["blackout"]);
            assert!(blackout > 0 && blackout < number(&upgrade["total_ns"]), "{upgrade}");
            let predecessor = steps(report, "predecessor");
            assert_eq!(predecessor[..4], ["hello", "prepare", "freeze", "preserve"], "{report}");
            assert!(steps(report, "successor").contains(&"restore".into()), "{report}");
            // Only one that lives has something to add.
            assert_eq!(upgrade["predecessor_report"].is_null(), stage["transport"] != "unix");
        }
        // By exec the process stays what it is, and through the socket it does not.
        let same = upgrades[0]["pid"] == upgrades[1]["pid"];
        assert_eq!(same, stage["transport"] != "unix");

        let kills = stage["kills"].as_array().unwrap();
        assert_eq!(kills.len(), if stage["transport"] == "exec" { 0 } else { 10 });
        for kill in kills {
            match kill["verdict"].as_str().unwrap() {
                "took over" => assert!(kill["killed"] == false && kill["why"].is_null(), "{kill}"),
                "predecessor goes on" => assert!(kill["killed"] == true && kill["why"].is_string(), "{kill}"),
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_command_that_is_killed_leaves_no_server() {
    for transport in ["exec", "keeper", "unix"] {
        // The folder of its door is left, too: nobody is there to remove it.
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kho"));
        command.env("TMPDIR", folder.path());
        command.args(["serve-demo", "--transport", transport, "--size", "2MiB", "--seconds", "0", "--clients", "2"]);
        command.args(["--upgrades", "9999"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let wait = |is: fn(usize) -> bool, what: &str| {
            let end = Instant::now() + Duration::from_secs(10);
            while !is(servers_of(child.id()).len()) {
                assert!(Instant::now() < end, "{transport}: {what}: {:?}", servers_of(child.id()));
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait(|servers| servers > 0, "no server");
        // Somewhere in an upgrade.
        std::thread::sleep(Duration::from_millis(150));
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait(|servers| servers == 0, "a server is left");
        child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn what_cannot_be_done_is_told_with_exit_code_2() {
    if !std::path::Path::new("/dev/liveupdate").exists() {
        let told = run(2, &["serve-demo", "--transport", "session"]);
        assert!(told.starts_with("kho: --transport session: /dev/liveupdate is not there: it needs "), "{told}");
    }
    let told = run(2, &["serve-demo", "--size", "64TiB"]);
    assert!(told.starts_with("kho: --size: the demo would need 128 TiB"), "{told}");
    assert!(run(2, &["serve-demo", "--seconds=-1"]).starts_with("kho: --seconds: "));
    for (args, says) in [
        (["--clients", "0"], "--clients <N>"),
        (["--kill", "many"], "--kill <N>"),
        (["--transport", "pigeon"], "[possible values: exec, keeper, unix, all, session]"),
    ] {
        let output = common::kho([&["serve-demo"][..], &args].concat());
        let told = common::text(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(says), "{told}");
    }
}

#[test]
fn in_text_it_is_three_tables() {
    let text = run(0, &["serve-demo", "--transport", "keeper", "--size", "2MiB", "--seconds", "0.05", "--seed", "7"]);
    assert!(text.starts_with("2 MiB of data, 8 clients, seed 7\n\ntransport  upgrades  "), "{text}");
    for says in [
        "\nlatency ",
        "\nthe last upgrade by keeper: ",
        "\npredecessor  freeze ",
        "\nsuccessor    restore ",
        "\nblackout ",
        "\nkills by keeper: ",
    ] {
        assert!(text.contains(says), "{says} in {text}");
    }
    assert!(text.ends_with("\nnothing lost, nothing wrong\n"), "{text}");
    let again = json(0, &["serve-demo", "--transport", "unix", "--size", "2MiB", "--seconds", "0", "--kill", "0"]);
    assert_eq!(again["transports"][0]["kills"], serde_json::json!([]));
    let help = run(0, &["serve-demo", "--help"]);
    assert!(help.contains("Examples:") && help.contains("\"parked\"") && !help.contains("--role"), "{help}");
}
