//! The stable codes, and what each of them means.

use core::fmt;

/// What kind of trouble a finding is. Follows from its [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Class {
    /// Both sides are fine; they do not speak the same version.
    Mismatch,
    /// The data contradicts itself or its own format.
    Corrupt,
    /// Valid, but more than this reader, machine or format can do.
    Unsupported,
    /// Memory that has no owner, two owners, or an owner who never preserved it.
    Ownership,
    /// The source could not be read, or the system refused: nothing is known of the data.
    Access,
}

/// Whether a finding stops a handover. Follows from its [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Severity {
    /// The plan refuses.
    Error,
    /// Told, and no reason to refuse.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident = $text:literal, $class:ident, $severity:ident, $about:literal;)*) => {
        /// What is wrong, as a word that never changes its meaning. New codes may be added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $about] $(#[$meta])* #[cfg_attr(feature = "serde", serde(rename = $text))] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The word itself, as it is printed and as JSON has it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }

            /// What kind of trouble it is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Code::$variant => Class::$class),* }
            }

            /// Whether it stops a handover.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity),* }
            }

            /// One line for people.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Code::$variant => $about),* }
            }
        }
    };
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

codes! {
    // Reading memory, files and descriptors.
    Outside = "outside", Corrupt, Error, "an address that is not in the memory that was handed over";
    Unaligned = "unaligned", Corrupt, Error, "an address that must be aligned to its page or folio and is not";
    TooLarge = "too-large", Corrupt, Error, "a number, address or total beyond what the format can mean";
    Io = "io", Access, Error, "the source could not be read or written";
    Exhausted = "exhausted", Access, Error, "no free memory of that order is left";
    Truncated = "truncated", Corrupt, Error, "the data ends before the structure does";
    Reserved = "reserved", Corrupt, Error, "a reserved field that must be zero is not";
    Text = "text", Corrupt, Error, "a name or string that is empty, not terminated or not text";
    ForeignEndian = "foreign-endian", Unsupported, Error, "written by a big-endian machine";
    Refused = "refused", Unsupported, Error, "somebody says no, and why: a writer to what a reader would trip over, another process, a hook";
    PageSize = "page-size", Unsupported, Error, "pages of another size than this machine or reader has";
    ImageHeader = "image-header", Corrupt, Error, "the header of a memory image contradicts itself";

    Unread = "unread", Access, Warning, "memory that the source has and that could not be read: it was passed over";
    ChangedWhileRead = "changed-while-read", Access, Error, "the source changed while it was read: what was found may never have been there at one time";
    Stale = "stale", Access, Warning, "memory that is no longer what was handed over: it was given back, or is used for something else";
    Partial = "partial", Access, Warning, "a copy that has less than what it is a copy of";

    // Device trees.
    FdtHeader = "fdt-header", Corrupt, Error, "not a flattened device tree, or a header that contradicts itself";
    FdtStructure = "fdt-structure", Corrupt, Error, "the structure block of a device tree is broken";
    FdtName = "fdt-name", Corrupt, Error, "a node or property name that a device tree cannot have";
    FdtDuplicate = "fdt-duplicate", Corrupt, Error, "two nodes or properties of one parent have the same name";
    FdtUnitAddress = "fdt-unit-address", Corrupt, Error, "a node NAME@ADDRESS that Linux would take for NAME";
    FdtDepth = "fdt-depth", Unsupported, Error, "a device tree nested deeper than this reader follows";

    // The root of the handover.
    NoHandover = "no-handover", Corrupt, Error, "no handover is there";
    PropertyMissing = "property-missing", Corrupt, Error, "a property that must be there is not";
    PropertySize = "property-size", Corrupt, Error, "a property of another size than its type has";

    // Who understands what.
    CompatMissing = "compat-missing", Corrupt, Error, "nothing says which layout this is";
    CompatSyntax = "compat-syntax", Corrupt, Error, "a compatibility string that is not NAME-vNUMBER";
    CompatOrder = "compat-order", Corrupt, Error, "a composite that is not unique and sorted behind its owner";
    VersionOlder = "version-older", Mismatch, Error, "written in an older version than this reader takes";
    VersionNewer = "version-newer", Mismatch, Error, "written in a newer version than this reader takes";
    ComponentUnknown = "component-unknown", Mismatch, Error, "a required component that nobody here understands";
    ComponentDropped = "component-dropped", Mismatch, Warning, "an optional component that nobody here understands";
    ComponentOpaque = "component-opaque", Unsupported, Warning, "a component that this reader shows without looking into it";
    ComponentMissing = "component-missing", Mismatch, Error, "a component that the successor needs is not in the handover";
    ComponentUnlisted = "component-unlisted", Mismatch, Error, "a layout that the data uses is not in the node's list, or the other way round";
    RecordSize = "record-size", Mismatch, Error, "records of another size than those of this reader";
    ManifestDisagrees = "manifest-disagrees", Mismatch, Error, "a component that is not what the program's manifest says of it";

    // Radix tree.
    RadixKey = "radix-key", Corrupt, Error, "a bit of the tree that stands for no page and order";
    RadixShared = "radix-shared", Corrupt, Error, "a page of the tree that has two parents, or is its own ancestor";
    PreservedTwice = "preserved-twice", Corrupt, Error, "a page that two preserved blocks contain";

    // vmalloc and block sets.
    VmallocFlags = "vmalloc-flags", Unsupported, Error, "flags of a vmalloc area that nobody knows";
    VmallocPages = "vmalloc-pages", Corrupt, Error, "total_pages that disagrees with the addresses in the chunks";
    ListCycle = "list-cycle", Corrupt, Error, "a list of pages that comes back to a page it had";
    ListLong = "list-long", Unsupported, Error, "a list of more pages than a reader follows";
    BlockCount = "block-count", Corrupt, Error, "a block whose count is zero or beyond its capacity";

    // Ownership.
    NotPreserved = "not-preserved", Ownership, Error, "memory that a node owns and nobody preserved";
    PreservedOtherwise = "preserved-otherwise", Ownership, Error, "memory that was preserved in other blocks than its owner restores";
    OwnedTwice = "owned-twice", Ownership, Error, "memory that two owners claim";
    Unowned = "unowned", Ownership, Warning, "preserved memory that nobody owns";
    ScratchOverlap = "scratch-overlap", Ownership, Error, "memory of the handover in scratch, where the next kernel allocates before it has read the tree";
    MemDisagrees = "mem-disagrees", Ownership, Error, "the `mem` of a node is not what its data uses";

    // memfd, kho_test, files.
    Checksum = "checksum", Corrupt, Error, "the bytes are not those that were handed over";
    Magic = "magic", Corrupt, Error, "a magic number that is another one";
    MemfdSeals = "memfd-seals", Unsupported, Error, "seals that a memfd cannot be restored with";
    MemfdSize = "memfd-size", Corrupt, Error, "a memfd whose size, folios and positions disagree";
    MemfdIndex = "memfd-index", Corrupt, Error, "a folio of a memfd at an impossible index";
    FolioFlags = "folio-flags", Unsupported, Error, "flags of a folio that nobody knows";
    TokenDuplicate = "token-duplicate", Corrupt, Error, "two files under one token";
    TokenMissing = "token-missing", Corrupt, Error, "no file came with that token";
    FileIdentity = "file-identity", Corrupt, Error, "a descriptor that is not the file that was handed over";
    FileKind = "file-kind", Unsupported, Error, "a kind of file that cannot be handed over";
    NameDuplicate = "name-duplicate", Corrupt, Error, "two sessions or globals of one name: Linux finds the first or none";
    FileDuplicate = "file-duplicate", Unsupported, Error, "one file under two tokens: it would be restored twice";

    // Typed state.
    StateField = "state-field", Mismatch, Error, "a state whose fields are not those that this reader has under the same version";
    StateUnknown = "state-unknown", Mismatch, Error, "a required state that nobody here understands";
    StateIgnored = "state-ignored", Mismatch, Warning, "an ignorable state that nobody here understands: it is left behind";
    StateOlder = "state-older", Mismatch, Error, "a value that the version to be written cannot say";
    StateDropped = "state-dropped", Mismatch, Warning, "a field that the version to be written does not have: it is left behind";
    StateMissing = "state-missing", Mismatch, Error, "a state that must be there is not in what was handed over";
    StateUnclaimed = "state-unclaimed", Ownership, Warning, "a state that was handed over and that nobody took";
    StateId = "state-id", Corrupt, Error, "an id that two states have, or that names none";
    StateTag = "state-tag", Corrupt, Error, "a value of an enum, bool or character that means nothing";
    StateNumber = "state-number", Corrupt, Error, "a number that is not written in its shortest form, or beyond the range of its type";
    StateLength = "state-length", Corrupt, Error, "a length beyond the bytes that are left, or bytes that are left over";
    StateKey = "state-key", Corrupt, Error, "a key that a map or set has twice";
    StateCondition = "state-condition", Corrupt, Error, "a field that is there although its condition says no, or the other way round";
    StateDepth = "state-depth", Unsupported, Error, "states nested deeper than is followed";
    StateCycle = "state-cycle", Corrupt, Error, "shared objects that own each other: only weak links may go back";
    StateShared = "state-shared", Corrupt, Error, "a shared object of another type than its owner has";
    StateLink = "state-link", Unsupported, Error, "a weak link to an object that is not saved with it";
    StateResource = "state-resource", Corrupt, Error, "a frame, area or file that is not what the state says, or is taken twice";
    StateSchema = "state-schema", Corrupt, Error, "the description of a state that contradicts itself";
    StateBusy = "state-busy", Access, Error, "an object that somebody holds while it is to be saved or restored";
    StateLock = "state-lock", Mismatch, Error, "a state that is not what was published under its version";

    // Parcels: descriptors that travel through a socket.
    ParcelMessage = "parcel-message", Corrupt, Error, "a message that is not the one that must come next";
    ParcelCount = "parcel-count", Corrupt, Error, "a parcel with more or fewer parts than it says";
    ParcelLimit = "parcel-limit", Access, Error, "descriptors that the system did not deliver, because the limit on open files was reached";

    // Between two processes that live at the same time.
    PeerUser = "peer-user", Access, Error, "a process of a user that is not let in";
    PeerBusy = "peer-busy", Access, Error, "another handover is under way";
    PeerClosed = "peer-closed", Access, Error, "the other process is gone, or closed the connection";
    PeerServes = "peer-serves", Access, Error, "the other process goes on: this one must not";
    Late = "late", Access, Error, "something that was not done in its time";
    Budget = "budget", Access, Error, "a blackout that would be longer than it may be";
    Freeze = "freeze", Access, Error, "a part of the program that could not be frozen";
    FreezeOrder = "freeze-order", Corrupt, Error, "a part to be frozen after one that is not there, or after itself";

    // Live update: what Linux does to a file that it preserves.
    HolesFilled = "holes-filled", Unsupported, Warning, "holes that Linux fills with memory when it preserves the file";
    MemoryShort = "memory-short", Access, Error, "less memory is available than filling the holes takes: the kernel would kill for it";
    MemfdMode = "memfd-mode", Unsupported, Warning, "permissions of a memfd that do not come back: it has 0777 then";
    MemfdUnwritable = "memfd-unwritable", Unsupported, Warning, "a memfd that comes back sealed against writing, because it is sealed against execution";

    // Handovers that are written for Linux.
    RootFull = "root-full", Unsupported, Warning, "a root FDT without room in its page for all that only this library reads";

    // Memory of guests, as a table of its regions.
    GuestRegions = "guest-regions", Corrupt, Error, "regions of guest memory that overlap, are not in the order of their addresses, or are none";
    GuestMapping = "guest-mapping", Unsupported, Error, "a protection or flags of a region of guest memory that nobody maps it with";

    // What a successor understands, read from its image.
    ImageLimit = "image-limit", Unsupported, Error, "an image that is larger, or unpacks to more, than is read of it";
    ImagePacking = "image-packing", Unsupported, Error, "packed in a way that is not unpacked here";
    ImagePacked = "image-packed", Corrupt, Error, "packed data that its unpacker refuses";
    SuccessorWithout = "successor-without", Mismatch, Error, "a successor that was built without what reads this";
    SuccessorSilent = "successor-silent", Unsupported, Warning, "nothing says whether the successor reads this";
    Machine = "machine", Mismatch, Error, "written on a machine of another architecture than the successor's";
}
