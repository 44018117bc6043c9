//! What the plan says of a kernel, held against what that kernel does: real kernels with a version changed, booted on a
//! handover.

use std::fs::File;

use kho::inspect::{self, Options};
use kho::mem::PhysAddr;
use kho::successor::{Answer, Carried, Consequence, Line, Plan, Profile, Verdict};

use crate::arm64::{self, WINDOW};
use crate::kernels::authored::Authored;
use crate::kernels::image::altered;
use crate::kernels::{Arch, Kernel, kernel_is_well, kernels};
use crate::leaving_for;

/// What the plan says, of the image that is booted.
fn plan(carried: &Carried, kernel: &Kernel) -> Plan {
    Plan::new(carried, &Profile::of_image(&kernel.path).unwrap(), &[])
}

#[track_caller]
fn line<'a>(plan: &'a Plan, component: &str) -> &'a Line {
    plan.lines.iter().find(|line| line.component == component).unwrap_or_else(|| panic!("{component}: {plan:#?}"))
}

#[track_caller]
fn says(log: &str, has: &[&str], has_not: &[&str]) {
    for words in has {
        assert!(log.contains(words), "it does not say {words:?}\n{log}");
    }
    for words in has_not {
        assert!(!log.contains(words), "it says {words:?}\n{log}");
    }
}

/// What a kernel says that took over a handover.
const FOUND: &str = "KHO: found kexec handover data";
const LUO: &str = "luo: Retrieved live update data, liveupdate number: 1";
const REVIVED: &str = "Revived memory reservation 'testmem' from KHO";
const TESTED: &str = "test_kho: KHO restore succeeded";
const FROM: &str = "KHO: exec from: ";
const PANIC: &str = "Kernel panic - not syncing: ";

/// A handover that was authored, and a kernel for it.
struct Arm64 {
    kernel: Kernel,
    init: Vec<u8>,
    authored: Authored,
    carried: Carried,
    folder: tempfile::TempDir,
}

impl Arm64 {
    fn of(kernel: Kernel) -> Option<Arm64> {
        let folder = tempfile::tempdir().unwrap();
        let init = arm64::init(folder.path())?;
        let authored = arm64::authored("many");
        let image = folder.path().join("image");
        authored.ram.write_image(&File::create(&image).unwrap()).unwrap();
        let base = Some(PhysAddr::new(WINDOW));
        let decoded = inspect::open(&image, &Options { base, ..Options::default() }).unwrap();
        Some(Arm64 { kernel, init, authored, carried: Carried::from(&decoded), folder })
    }

    /// The plan against the kernel with that change, and its log.
    fn boot(&self, from: &str, to: &str, options: &str) -> (Plan, String) {
        let kernel = altered(&self.kernel, &[(from, to)], self.folder.path()).unwrap();
        let machine = arm64::machine(&kernel, &self.authored, arm64::base(&self.init, &self.authored.plan));
        (plan(&self.carried, &kernel), machine.append(options).start().finish())
    }

    /// What is not changed is taken over.
    #[track_caller]
    fn restored(&self, log: &str) {
        let has = [FOUND, LUO, "guest: in/fdt there", "guest: out/fdt absent", "guest: ok finished", "guest: done"];
        says(log, &has, &["guest: FAIL", PANIC]);
        assert_eq!(arm64::said(log), self.authored.says[0], "{log}");
    }
}

#[test]
fn arm64_another_root_is_a_cold_boot() {
    for arm64 in kernels(Arch::Arm64).into_iter().filter_map(Arm64::of) {
        let (plan, log) = arm64.boot("kho-v4", "kho-v5", "");
        let line = line(&plan, "kho-v4");
        assert_eq!((plan.answer, line.verdict), (Answer::Refused, Verdict::Refused));
        assert_eq!(line.consequence, Consequence::AllMemoryLost);
        assert_eq!((plan.lines.len(), plan.not_reached > 5), (1, true), "{plan:#?}");

        kernel_is_well(&log);
        // Cold: with a root of its own, and with nothing that can be retrieved.
        let has = [
            "KHO: setup: handover FDT (0x",
            ") is incompatible with 'kho-v5'",
            "KHO: disabling KHO revival",
            "guest: in/fdt absent",
            "guest: out/fdt there",
            "guest: FAIL many: No such file or directory",
        ];
        says(&log, &has, &[FOUND, LUO, REVIVED, TESTED, FROM, "guest: file "]);
    }
}

#[test]
fn arm64_another_luo_is_a_panic() {
    for arm64 in kernels(Arch::Arm64).into_iter().filter_map(Arm64::of) {
        // It panics before the console is there.
        let (_, log) = arm64.boot("luo-v5", "luo-v6", "");
        assert_eq!(log.trim(), "");
        // As it says: whether liveupdate=on or not, unless kho=off.
        for (options, panics) in [("", true), ("liveupdate=off", true), ("kho=off", false)] {
            let (plan, log) = arm64.boot("luo-v5", "luo-v6", &format!("{options} earlycon"));
            let line = line(&plan, "luo-v5");
            assert_eq!((plan.answer, line.consequence), (Answer::Refused, Consequence::Panic), "{plan:#?}");
            if panics {
                says(&log, &["luo: LUO state is incompatible with 'luo-v6'", PANIC], &["guest: "]);
            } else {
                // What is reserved by name comes back all the same.
                let has = ["luo: Disabling liveupdate because KHO is disabled", "guest: FAIL /dev/liveupdate: No such"];
                says(&log, &[&has[..], &[FOUND, REVIVED, "guest: in/fdt absent"]].concat(), &[PANIC, LUO]);
            }
        }
    }
}

#[test]
fn arm64_another_handler_makes_sessions_unreachable() {
    for arm64 in kernels(Arch::Arm64).into_iter().filter_map(Arm64::of) {
        let (plan, log) = arm64.boot("memfd-v2", "memfd-v3", "");
        let line = line(&plan, "memfd-v2");
        assert_eq!((plan.answer, line.consequence), (Answer::Refused, Consequence::SessionsUnreachable), "{plan:#?}");
        // All but the sessions is taken over; the first open fails, and so does the next.
        kernel_is_well(&log);
        let has = [
            "luo: No registered handler for compatible 'memfd-v2'",
            "guest: open: Input/output error",
            "guest: FAIL /dev/liveupdate: Input/output error",
        ];
        says(&log, &[&has[..], &[FOUND, LUO, REVIVED, TESTED, FROM, "guest: in/fdt there"]].concat(), &["guest: ok"]);
    }
}

/// What goes on without it: all the rest is restored, byte for byte.
#[test]
fn arm64_what_is_dropped() {
    for arm64 in kernels(Arch::Arm64).into_iter().filter_map(Arm64::of) {
        for (from, to, consequence, unsaid) in [
            ("memblock-v1", "memblock-v2", Consequence::AllocatedAfresh, REVIVED),
            ("kho-test-v1", "kho-test-v2", Consequence::StaysReserved, TESTED),
            ("kexec-metadata", "kexec-metadatb", Consequence::MetadataIgnored, FROM),
        ] {
            let (plan, log) = arm64.boot(from, to, "");
            let line = plan.lines.iter().find(|line| line.component.starts_with(from)).unwrap();
            assert_eq!((line.verdict, line.consequence), (Verdict::Dropped, consequence), "{plan:#?}");
            assert_eq!((plan.answer, plan.count(Verdict::Dropped)), (Answer::Go, 1), "{plan:#?}");
            arm64.restored(&log);
            let others = [REVIVED, TESTED, FROM].into_iter().filter(|line| *line != unsaid);
            says(&log, &others.collect::<Vec<_>>(), &[unsaid]);
            if consequence == Consequence::AllocatedAfresh {
                // In scratch, where else? So it cannot be handed on, of which a kernel with its own checks warns.
                says(
                    &log,
                    &["FDT 'memblock' is incompatible with 'memblock-v2'", "failed to prepare memblock FDT"],
                    &[],
                );
            } else {
                kernel_is_well(&log);
            }
        }
    }
}

/// A live handover: the kernel of the test leaves for itself with these changes. What `kho plan` says of the machine while
/// it runs; what the plan against the image says; and the log from then on.
fn leave(kernel: &Kernel, changes: &[(&str, &str)], options: &str) -> Option<(String, Plan, String)> {
    let folder = tempfile::tempdir().unwrap();
    let next = altered(kernel, changes, folder.path())?;
    // Two images: what the first would write, and the second read.
    let plan = plan(&Carried::written_by(&Profile::of_image(&kernel.path).unwrap()), &next);
    let options = format!("liveupdate=on kho_scenario=many kho_altered=1 earlyprintk=ttyS0 {options}");
    let log = leaving_for(&next, kernel, &options)?.start().finish();
    // The first words of a kernel are a line of their own; the plan has them, too.
    let (at, _) = log.rmatch_indices("\nLinux version ").next().unwrap();
    let (before, after) = log.split_at(at);
    assert!(before.contains("Linux version "), "it never left\n{log}");
    kernel_is_well(before);
    Some((before.into(), plan, after.into()))
}

#[test]
fn x86_64_leaves_for_another_root() {
    for kernel in kernels(Arch::X86) {
        let Some((before, plan, log)) = leave(&kernel, &[("kho-v4", "kho-v5")], "") else { return };
        assert_eq!(line(&plan, "kho-v4").consequence, Consequence::AllMemoryLost);
        says(&before, &["guest: plan exits Some(1)", "all preserved memory is lost"], &[]);
        kernel_is_well(&log);
        let has = [
            ") is incompatible with 'kho-v5'",
            "KHO: disabling KHO revival",
            "KHO: scratch areas: lowmem: 16MiB global: 48MiB",
            "guest: in/fdt absent",
            "guest: retrieve session many: the previous kernel left no session of that name (ENOENT)",
            "guest: done",
        ];
        says(&log, &has, &[FOUND, LUO, REVIVED, TESTED, FROM, "guest: retrieved"]);
    }
}

#[test]
fn x86_64_leaves_for_another_luo() {
    for kernel in kernels(Arch::X86) {
        let Some((before, plan, log)) = leave(&kernel, &[("luo-v5", "luo-v6")], "") else { return };
        assert_eq!(line(&plan, "luo-v5").consequence, Consequence::Panic);
        says(&before, &["guest: plan exits Some(1)", "the next kernel panics early"], &[]);
        says(&log, &["luo: LUO state is incompatible with 'luo-v6'", PANIC], &["guest: "]);
    }
}

#[test]
fn x86_64_leaves_for_another_handler() {
    for kernel in kernels(Arch::X86) {
        let changes = [("memfd-v2", "memfd-v3"), ("memblock-v1", "memblock-v2")];
        let Some((before, plan, log)) = leave(&kernel, &changes, "") else { return };
        assert_eq!(line(&plan, "memfd-v2").consequence, Consequence::SessionsUnreachable);
        assert_eq!(line(&plan, "memblock-v1").consequence, Consequence::AllocatedAfresh);
        // Of a machine that runs the sessions are not seen, and the plan says so.
        says(&before, &["guest: plan exits Some(0)", "a machine that runs shows no session", "1 will be dropped"], &[]);
        let has = [
            FOUND,
            LUO,
            TESTED,
            FROM,
            "FDT 'memblock' is incompatible with 'memblock-v2'",
            "luo: No registered handler for compatible 'memfd-v2'",
            "guest: in/fdt there",
            "guest: open: the kernel could not read the sessions of its predecessor (EIO)",
            "guest: done",
        ];
        says(&log, &has, &[REVIVED, PANIC, "guest: retrieved"]);
        assert_eq!(log.matches("guest: open: ").count(), 2, "{log}");
    }
}
