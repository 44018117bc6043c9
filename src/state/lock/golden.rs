//! States as each version saved them, kept as files: written once, restored by every later code. What
//! [`state_tests!`](crate::state_tests) calls.

use std::boxed::Box;
use std::collections::BTreeSet;
use std::format;
use std::fs;
use std::path::PathBuf;
use std::string::{String, ToString as _};
use std::vec::Vec;

use super::super::bytes::{restore, save, save_as};
use super::super::image::Image;
use super::super::shape::Shape;
use super::super::value::State;
use super::super::versions::Versions;
use super::check::{COMMAND, Complaint, Remedy, lines};
use super::compare::differences;
use super::values::values;
use super::{Blob, Lock, Section, fnv, of_code};
use crate::report::{Code, Fault};

type Bytes = Result<Vec<u8>, String>;
type Again = dyn Fn(&[u8], u32) -> Bytes;

/// A type with a value to be saved.
pub struct Case {
    shape: &'static Shape,
    save: Box<dyn Fn(u32) -> Bytes>,
    /// Restores, checks, and saves in the newest version again.
    again: Box<Again>,
}

impl core::fmt::Debug for Case {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Case").field(&self.shape.name()).finish()
    }
}

impl Case {
    /// A value to be saved, and what is called with every value that was restored and its version.
    pub fn new<T: State + 'static>(sample: fn() -> T, check: fn(&T, u32)) -> Case {
        let shape = T::SHAPE;
        Case {
            shape,
            save: Box::new(move |version| {
                let versions = Versions::of::<T>(version).map_err(|fault| fault.to_string())?;
                save_as(&sample(), &versions).map_err(|error| error.to_string())
            }),
            again: Box::new(move |bytes, version| {
                let value: T = restore(bytes).map_err(|error| error.to_string())?;
                check(&value, version);
                save(&value).map_err(|error| error.to_string())
            }),
        }
    }
}

/// The tests of a project: its folder, and what its files were when the test was built.
#[derive(Debug)]
pub struct Suite {
    folder: PathBuf,
    cases: Vec<Case>,
}

/// Whether files are to be written, and what as a release.
pub(super) fn blessing() -> Option<Option<String>> {
    std::env::var_os("KHO_BLESS")?;
    Some(std::env::var("KHO_PUBLISH").ok())
}

impl Suite {
    /// The folder with `state.lock` and the saved states.
    pub fn new(folder: impl Into<PathBuf>, cases: Vec<Case>) -> Suite {
        Suite { folder: folder.into(), cases }
    }

    /// The test of the lock; or its blessing, when that is asked for.
    ///
    /// # Errors
    /// All complaints as a text.
    pub fn check_lock(&self) -> Result<(), String> {
        match blessing() {
            Some(publish) => self.bless(publish.as_deref()),
            None => self.verify(),
        }
    }

    /// The test of one file, which was there with these bytes when the test was built.
    ///
    /// # Errors
    /// What is wrong, as a text.
    pub fn check_blob(&self, lock: &str, file: &str, bytes: &[u8]) -> Result<(), String> {
        if blessing().is_some() {
            // Its version may not be blessed yet; the blessing looks at those that are.
            return Ok(());
        }
        let lock = Lock::parse(lock).map_err(|broken| format!("state.lock: {broken}"))?;
        self.blob(&lock, file, bytes)
    }

    fn read_lock(&self) -> Result<(String, Lock), String> {
        let path = self.folder.join("state.lock");
        let text = fs::read_to_string(&path).map_err(|error| {
            format!("{}: {error}\n  a project begins with an empty one: touch {}", path.display(), path.display())
        })?;
        let lock = Lock::parse(&text).map_err(|broken| format!("{}: {broken}", path.display()))?;
        Ok((text, lock))
    }

    fn code(&self) -> Result<Vec<Section>, String> {
        of_code(self.cases.iter().map(|case| case.shape)).map_err(|fault| fault.to_string())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        fs::read(self.folder.join(file)).map_err(|error| error.to_string())
    }

    pub(super) fn verify(&self) -> Result<(), String> {
        let (text, lock) = self.read_lock()?;
        let mut complaints = lock.check(&self.code()?);
        self.files(&lock, &mut complaints);
        if !complaints.is_empty() {
            return Err(format!(
                "the code and {} disagree:{}",
                self.folder.join("state.lock").display(),
                lines(&complaints)
            ));
        }
        if lock.to_string() != text {
            return Err(format!("state.lock is not as it is written: {COMMAND} writes it"));
        }
        Ok(())
    }

    /// What is wrong with the files of the folder.
    fn files(&self, lock: &Lock, complaints: &mut Vec<Complaint>) {
        for (section, _, blob) in living(lock) {
            complaints.extend(self.file(lock, section, blob));
        }
        for case in &self.cases {
            for version in case.shape.min_version()..=case.shape.version() {
                if place(lock, case.shape.id(), version).is_none() && owner(lock, case.shape.id(), version).is_some() {
                    let fault = Fault::new(Code::StateLock).item(file_name(case.shape, version));
                    let fault = fault.found("no saved state of this version").expected("one in the folder");
                    complaints.push(Complaint { fault, remedy: Remedy::Bless("writes it") });
                }
            }
        }
        let known: BTreeSet<&str> =
            lock.sections.values().flat_map(|section| section.blobs.values()).map(|blob| blob.file.as_str()).collect();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| name.ends_with(".state") && !known.contains(name.as_str())) {
            let fault = Fault::new(Code::StateLock).item(name).found("a file that the lock does not know");
            let remedy = Remedy::Never("remove it: files are written with the lock, and never by hand".into());
            complaints.push(Complaint { fault, remedy });
        }
    }

    /// What is wrong with a file of the lock, before it is restored.
    fn file(&self, lock: &Lock, section: &Section, blob: &Blob) -> Option<Complaint> {
        let fault = Fault::new(Code::StateLock).item(blob.file.clone());
        let fault = match self.read(&blob.file) {
            Err(error) => fault.found(error).expected("the file that the lock has: get it back from the history"),
            Ok(bytes) if fnv(bytes.iter().copied()) != blob.sum => {
                fault.found("other bytes").expected("those that the lock has: get them back from the history")
            }
            Ok(_) => return None,
        };
        Some(Complaint { fault, remedy: lock.remedy(section) })
    }

    /// Restores a file with today's code, and holds it against the sample where that can be.
    pub(super) fn blob(&self, lock: &Lock, file: &str, bytes: &[u8]) -> Result<(), String> {
        let fail = |fault: &dyn core::fmt::Display| format!("{file}: {fault}");
        let image = Image::open(bytes).map_err(|fault| fail(&fault))?;
        let (id, _) = image.instances().next().ok_or_else(|| fail(&"no state in it"))?;
        let (was, version) =
            image.description(id).map_err(|fault| fail(&fault))?.ok_or_else(|| fail(&"no description of its state"))?;
        let Some(case) = self.cases.iter().find(|case| case.shape.id() == id) else {
            if lock.of(id).all(|section| section.retired) && lock.of(id).next().is_some() {
                return Ok(());
            }
            return Err(fail(&format!("the state {} (id {id}) is none of the types of state_tests!", was.name)));
        };
        if version < case.shape.min_version() {
            return Ok(());
        }
        let again = (case.again)(bytes, version).map_err(|error| {
            fail(&format!("what version {version} of {} saved is not restored any more: {error}", was.name))
        })?;
        let newest = image.versions().all(|(id, version)| {
            let section = lock.of(id).next_back();
            section.is_some_and(|section| section.version == version)
        });
        if !newest || version != case.shape.version() {
            return Ok(());
        }
        let sample = (case.save)(version).map_err(|error| fail(&format!("the sample is not saved: {error}")))?;
        let today = Image::open(&sample).and_then(|image| image.description(id)).map_err(|fault| fail(&fault))?;
        if let Some((today, _)) = today {
            let faults = differences(&Section::of(&was), &Section::of(&today), version, version);
            if let Some(fault) = faults.first() {
                return Err(fail(&format!("the description that is written today is another one: {fault}")));
            }
        }
        let (was, now) =
            (values(&again).map_err(|fault| fail(&fault))?, values(&sample).map_err(|fault| fail(&fault))?);
        let Some((path, was, now)) = first_difference(&was, &now) else { return Ok(()) };
        Err(fail(&format!(
            "restored it is not the sample: {path} is {was}, and {now} in the sample\n  as long as version {version} is \
             not published, {COMMAND} writes it anew; afterwards the sample stays as it is until the next version"
        )))
    }

    pub(super) fn bless(&self, publish: Option<&str>) -> Result<(), String> {
        if publish.is_some_and(|whom| whom.trim().is_empty() || whom.contains('\n')) {
            return Err("KHO_PUBLISH is a release, as \"vmm 1.4\"".into());
        }
        let (text, lock) = self.read_lock()?;
        let mut blessed = lock.bless(&self.code()?).map_err(|refusal| refusal.to_string())?;
        self.check_final(&blessed)?;
        // The samples of all that is to be written, before any of it is.
        let mut writes: Vec<(String, Vec<u8>)> = Vec::new();
        for case in &self.cases {
            let id = case.shape.id();
            for version in case.shape.min_version()..=case.shape.version() {
                let bytes = || {
                    let name = file_name(case.shape, version);
                    (case.save)(version).map_err(|error| {
                        format!("{name}: the sample cannot be written in version {version}: {error}\n  {BEGIN}")
                    })
                };
                let (key, file) = match place(&blessed, id, version) {
                    Some((section, blob)) => {
                        if blessed.is_final(section) || self.is_good(&blessed, case, version, blob) {
                            continue;
                        }
                        ((id, section.version), blob.file.clone())
                    }
                    None => {
                        let Some(section) = owner(&blessed, id, version) else { continue };
                        let file = file_name(case.shape, version);
                        if self.folder.join(&file).exists() {
                            return Err(format!("{file} is there, and the lock does not know it: remove it"));
                        }
                        ((id, section.version), file)
                    }
                };
                let bytes = bytes()?;
                if let Some(section) = blessed.sections.get_mut(&key) {
                    section.blobs.insert(version, Blob { file: file.clone(), sum: fnv(bytes.iter().copied()) });
                }
                writes.push((file, bytes));
            }
        }
        if let Some(whom) = publish {
            blessed.publish(whom);
        }
        let written = blessed.to_string();
        let lock = (written != text).then(|| ("state.lock".to_string(), written.into_bytes()));
        for (file, bytes) in writes.into_iter().chain(lock) {
            fs::write(self.folder.join(&file), bytes).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(())
    }

    /// Whether the file of a version that nobody has can stay as it is.
    fn is_good(&self, lock: &Lock, case: &Case, version: u32, blob: &Blob) -> bool {
        let Ok(bytes) = self.read(&blob.file) else { return false };
        let described = |bytes: &[u8]| Image::open(bytes).and_then(|image| image.descriptions()).ok();
        let same = (case.save)(version).is_ok_and(|sample| described(&bytes) == described(&sample));
        same && fnv(bytes.iter().copied()) == blob.sum && self.blob(lock, &blob.file, &bytes).is_ok()
    }

    /// Files that no blessing changes are there and are restored.
    fn check_final(&self, lock: &Lock) -> Result<(), String> {
        for (section, _, blob) in living(lock).filter(|(section, ..)| lock.is_final(section)) {
            if let Some(complaint) = self.file(lock, section, blob) {
                return Err(format!("nothing was written, because no blessing changes this:\n{complaint}"));
            }
            let bytes = self.read(&blob.file)?;
            self.blob(lock, &blob.file, &bytes).map_err(|error| format!("nothing was written: {error}"))?;
        }
        Ok(())
    }
}

const BEGIN: &str = "begin with a sample that every version can say; later ones may have more";

/// The files of what is still read.
fn living(lock: &Lock) -> impl Iterator<Item = (&Section, u32, &Blob)> {
    let sections = lock.sections.values().filter(|section| !section.retired);
    let blobs = sections.flat_map(|section| section.blobs.iter().map(move |(version, blob)| (section, *version, blob)));
    // Of versions that are no longer read, the files may be gone.
    blobs.filter(|(section, version, _)| *version >= section.from)
}

/// The section that speaks for a version.
fn owner(lock: &Lock, id: u32, version: u32) -> Option<&Section> {
    lock.of(id).find(|section| section.version >= version && !section.retired)
}

/// The file of a version.
fn place(lock: &Lock, id: u32, version: u32) -> Option<(&Section, &Blob)> {
    let section = owner(lock, id, version)?;
    Some((section, section.blobs.get(&version)?))
}

fn file_name(shape: &Shape, version: u32) -> String {
    format!("{}-v{version}.state", shape.name())
}

type Lines = [(String, String)];

fn first_difference(was: &Lines, now: &Lines) -> Option<(String, String, String)> {
    let nothing = || "not there".to_string();
    let different = was.iter().zip(now).find(|(was, now)| was != now);
    match different {
        Some(((path, was), (other, now))) if path == other => Some((path.clone(), was.clone(), now.clone())),
        Some(((path, was), _)) => Some((path.clone(), was.clone(), nothing())),
        None => match (was.get(now.len()), now.get(was.len())) {
            (Some((path, was)), _) => Some((path.clone(), was.clone(), nothing())),
            (_, Some((path, now))) => Some((path.clone(), nothing(), now.clone())),
            (None, None) => None,
        },
    }
}
