//! Manifests in real files: however a program was built and stripped, it says the same; and it says it once.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kho::manifest::Found;

const V2: &str = env!("CARGO_BIN_EXE_counter-v2");

fn found(program: impl AsRef<Path>) -> Found {
    Found::of_file(File::open(program).unwrap()).unwrap().expect("a manifest")
}

fn versions(program: impl AsRef<Path>) -> Option<Vec<String>> {
    Found::versions_of_file(File::open(program).unwrap()).unwrap()
}

const VERSIONS: [&str; 4] = ["test-counter-v2", "test-counter-v1", "kho-files-v1", "test-hints-v1"];

/// What the second version says, in words.
#[test]
fn the_second_version_says_what_it_declares() {
    let Found { reads, writes, passed_over, .. } = found(V2);
    assert_eq!((&reads, passed_over), (&writes, 0));
    let terms = reads.iter().filter(|term| !term.name().is_empty());
    let terms: Vec<String> = terms
        .map(|term| format!("{} {} {} {}", term.name(), term.made_of(), term.oldest(), term.is_required()))
        .collect();
    assert_eq!(
        terms,
        [
            "counter test-counter-v2;block-v1 2 true",
            "counter test-counter-v1 1 true",
            "files kho-files-v1;block-v1 1 true",
            "hints test-hints-v1 1 false",
        ]
    );
    assert_eq!(versions(V2).unwrap(), VERSIONS);
    let untold = File::open(env!("CARGO_BIN_EXE_counter-untold")).unwrap();
    assert_eq!((Found::of_file(&untold), Found::versions_of_file(&untold)), (Ok(None), Ok(None)));
}

/// Says what is missing, past the capture of the test's output; a failure if `KHO_REQUIRE` has the word.
#[track_caller]
fn lacks(word: &str, what: &str) {
    let required = std::env::var("KHO_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == word), "needs {what}");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    std::io::stderr().write_all(format!("{test}: skipped, needs {what}\n").as_bytes()).unwrap();
}

#[test]
fn strip_leaves_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    for option in ["-s", "--strip-unneeded", "--strip-debug"] {
        let copy = folder.path().join(option);
        std::fs::copy(V2, &copy).unwrap();
        match Command::new("strip").args([option, "--"]).arg(&copy).status() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return lacks("gcc", "strip (apt-get install binutils)");
            }
            status => assert!(status.unwrap().success()),
        }
        assert!(std::fs::metadata(&copy).unwrap().len() < std::fs::metadata(V2).unwrap().len(), "{option}");
        assert_eq!((found(&copy), versions(&copy).unwrap()), (found(V2), VERSIONS.map(String::from).to_vec()));
    }
}

/// Where in an ELF header the sections are: offset; size, number and names.
const SECTIONS: [(u64, usize); 2] = [(0x28, 8), (0x3a, 6)];

#[test]
fn without_section_headers_the_note_is_found_by_its_segment() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("headless");
    std::fs::copy(V2, &copy).unwrap();
    let file = OpenOptions::new().write(true).open(&copy).unwrap();
    for (at, bytes) in SECTIONS {
        file.write_all_at(&vec![0; bytes], at).unwrap();
    }
    drop(file);
    assert_eq!(found(&copy), found(V2));
    assert_eq!(versions(&copy), None, "those have no segment of their own");
    // It runs as before.
    assert!(Command::new(&copy).stdin(std::process::Stdio::null()).output().unwrap().status.success());
}

/// A build of `fixtures/program`, in a folder that all of them share: what one has built the next one has.
struct Build<'a> {
    features: &'a str,
    release: bool,
    flags: &'a str,
}

/// The target, so that flags are for the program and not for what its build runs.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

impl Build<'_> {
    fn run(&self) -> (Output, PathBuf) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("fixtures");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--locked", "-p", "program", "--features", self.features, "--target"]);
        command.arg(target()).arg("--target-dir").arg(&folder).current_dir(fixtures);
        command.args(self.release.then_some("--release"));
        let output =
            command.env("RUSTFLAGS", self.flags).env_remove("CARGO_ENCODED_RUSTFLAGS").output().expect("cargo runs");
        let profile = if self.release { "release" } else { "debug" };
        (output, folder.join(target()).join(profile).join("program"))
    }

    /// A copy of the program: the next build may replace it.
    fn program(&self, to: &Path) {
        let (output, program) = self.run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::copy(program, to).unwrap();
        let output = Command::new(to).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it ran\n");
    }

    fn errors(&self) -> String {
        let (output, _) = self.run();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// Whether a program has an interpreter: then it is not static.
fn is_dynamic(program: &Path) -> bool {
    let image = std::fs::read(program).unwrap();
    image.windows(12).any(|bytes| bytes == b"/ld-linux-x8" || bytes == b"/ld-linux-aa")
}

/// One after the other: they share a folder.
#[test]
fn a_manifest_survives_every_build_and_stands_once_in_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let dev = Build { features: "own", release: false, flags: "" };

    // The manifest is mentioned nowhere in these programs: it is there all the same.
    dev.program(&path("dev"));
    assert_eq!(found(path("dev")), found(V2));

    Build { release: true, ..dev }.program(&path("lto"));
    assert_eq!((found(path("lto")), versions(path("lto")).unwrap()), (found(V2), VERSIONS.map(String::from).to_vec()));
    let symbols = std::fs::read(path("lto")).unwrap();
    assert!(!symbols.windows(12).any(|bytes| bytes == b"KHO_MANIFEST"), "it is stripped");

    Build { flags: "-C target-feature=+crt-static", ..dev }.program(&path("static"));
    assert_eq!(
        (found(path("static")), versions(path("static")).unwrap()),
        (found(V2), VERSIONS.map(String::from).to_vec())
    );
    assert!(is_dynamic(&path("dev")) && !is_dynamic(&path("static")));

    // In a library that the program links and does not look at.
    Build { features: "other", ..dev }.program(&path("other"));
    assert_eq!(found(path("other")).reads.names().collect::<Vec<_>>(), ["other"]);
    Build { features: "other", release: true, ..dev }.program(&path("other, lto"));
    assert_eq!(found(path("other, lto")), found(path("other")));

    // Two in one crate, and in two.
    let twice = Build { features: "own twice", ..dev }.errors();
    assert!(twice.contains("error: symbol `KHO_MANIFEST` is already defined"), "{twice}");
    let both = Build { features: "own other", ..dev }.errors();
    assert!(
        both.contains("duplicate symbol: KHO_MANIFEST") || both.contains("multiple definition of `KHO_MANIFEST'"),
        "{both}"
    );
}
