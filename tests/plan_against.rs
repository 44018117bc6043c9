//! What real kernels understand, from their images; and the same images with a version changed. See `kernels/mod.rs`
//! for what that needs.

use kho::inspect::{self, Options};
use kho::mem::Machine;
use kho::report::Code;
use kho::successor::{Answer, By, Carried, Consequence, Plan, Profile, Verdict};

mod kernels;

use kernels::image::{change, unpacked};
use kernels::{Arch, Kernel, images};

fn frozen() -> Carried {
    Carried::from(&inspect::open("tests/data/linux-7.2-x86_64/frozen.core", &Options::default()).unwrap())
}

fn all() -> impl Iterator<Item = Kernel> {
    [Arch::X86, Arch::Arm64].into_iter().flat_map(images)
}

#[test]
fn go_for_the_kernels_that_there_are() {
    for kernel in all() {
        let next = Profile::of_image(&kernel.path).unwrap();
        let banner = next.banner.clone().unwrap();
        assert!(banner.starts_with(&format!("Linux version {}", kernel.version)), "{banner}");
        assert_eq!((next.page_size, next.page_size_by), (Some(4096), Some(By::Header)));
        let machine = if kernel.arch == Arch::X86 { Machine::X86 } else { Machine::Arm64 };
        assert_eq!((next.machine, next.machine_by), (Some(machine), Some(By::Header)));
        let plan = Plan::new(&frozen(), &next, &[]);
        let refused: Vec<_> = plan.lines.iter().filter(|line| line.verdict == Verdict::Refused).collect();
        if kernel.arch == Arch::X86 {
            assert_eq!((plan.answer, refused.len()), (Answer::Go, 0), "{plan:#?}");
            assert_eq!((plan.count(Verdict::Fine), plan.not_reached), (9, 0), "{plan:#?}");
        } else {
            // Another architecture than that of the machine that was frozen.
            assert_eq!((plan.answer, refused.len()), (Answer::Refused, 1), "{plan:#?}");
            assert_eq!((refused[0].code, refused[0].consequence), (Some(Code::Machine), Consequence::Misread));
            assert_eq!(refused[0].why, "machine: found x86-64, expected arm64");
            assert_eq!((plan.count(Verdict::Fine), plan.not_reached), (0, 9), "{plan:#?}");
        }
        // They say it by strings, and the plan says so.
        assert!(plan.notes.iter().any(|note| note.starts_with("heuristic: ")), "{plan:#?}");
        let plan = Plan::new(&Carried::written_by(&next), &next, &[]);
        assert_eq!(plan.answer, Answer::Go, "{plan:#?}");
    }
}

#[test]
fn refused_with_a_version_changed() {
    for kernel in all() {
        let image = unpacked(&kernel);
        let same = Profile::of_bytes(&image).unwrap();
        // Of the same architecture: what was frozen, or what it would write itself.
        let carried = if kernel.arch == Arch::X86 { frozen() } else { Carried::written_by(&same) };
        for (from, to, answer, consequence) in [
            ("kho-v4", "kho-v5", Answer::Refused, Consequence::AllMemoryLost),
            ("luo-v5", "luo-v6", Answer::Refused, Consequence::Panic),
            ("memfd-v2", "memfd-v3", Answer::Refused, Consequence::SessionsUnreachable),
            ("memblock-v1", "memblock-v2", Answer::Go, Consequence::AllocatedAfresh),
            ("kho-test-v1", "kho-test-v2", Answer::Go, Consequence::StaysReserved),
            ("kexec-metadata", "kexec-metadatb", Answer::Go, Consequence::MetadataIgnored),
        ] {
            let mut changed = image.clone();
            change(&mut changed, from, to);
            let plan = Plan::new(&carried, &Profile::of_bytes(&changed).unwrap(), &[]);
            let line = plan.lines.iter().find(|line| line.component.starts_with(from)).unwrap();
            assert_eq!((plan.answer, line.consequence), (answer, consequence), "{plan:#?}");
            assert!(plan.lines.iter().all(|line| line.verdict == Verdict::Fine || line.component.starts_with(from)));
        }
    }
}
