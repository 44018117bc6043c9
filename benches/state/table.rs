//! A workload and its formats: measured in turns, printed as a table.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kho_benches::quick;

use crate::peers::{Codec, Format, Kind, Postcard, Size};

/// Work that gives its own time: what it made is freed after the clock has stopped.
struct Timed<'a> {
    work: Box<dyn FnMut() -> Duration + 'a>,
    /// So often in one round: short work is repeated until the clock can measure it.
    repeat: u32,
    /// Time of one repetition, for each round.
    rounds: Vec<Duration>,
}

impl<'a> Timed<'a> {
    fn new<R>(mut work: impl FnMut() -> R + 'a) -> Self {
        let work = move || {
            let start = Instant::now();
            let made = black_box(work());
            let time = start.elapsed();
            drop(made);
            time
        };
        Timed { work: Box::new(work), repeat: 1, rounds: Vec::new() }
    }

    /// Also warms caches and the heap.
    fn prepare(&mut self, enough: Duration) {
        let once = (self.work)().max(Duration::from_nanos(1));
        self.repeat = u32::try_from(enough.as_nanos().div_ceil(once.as_nanos())).unwrap_or(u32::MAX).max(1);
    }

    fn round(&mut self) {
        let time: Duration = (0..self.repeat).map(|_| (self.work)()).sum();
        self.rounds.push(time / self.repeat);
    }

    /// In microseconds.
    fn median(&mut self) -> f64 {
        self.rounds.sort_unstable();
        self.rounds.get(self.rounds.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e6
    }
}

struct Row<'a> {
    name: &'static str,
    kind: Kind,
    bytes: usize,
    save: Timed<'a>,
    restore: Timed<'a>,
}

/// What is printed of a row, in microseconds and bytes.
#[derive(Clone, Copy)]
struct Figures {
    save: f64,
    restore: f64,
    bytes: f64,
}

/// A workload. The rounds of its formats are interleaved, so that a machine that slows down slows all of them.
pub(crate) struct Table<'a> {
    title: String,
    rows: Vec<Row<'a>>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Table { title: title.into(), rows: Vec::new() }
    }

    /// Adds a format, after it has shown once that what it restores is what was saved.
    pub(crate) fn row<C: Codec<T>, T: PartialEq>(&mut self, value: &'a T) -> &mut Self {
        let saved = C::save(value);
        // No `assert_eq`: nobody wants to read 256 MiB.
        assert!(C::restore(&saved) == *value, "{}: {} differs", self.title, C::NAME);
        let bytes = saved.size();
        let save = Timed::new(move || C::save(black_box(value)));
        let restore = Timed::new(move || C::restore(black_box(&saved)));
        self.rows.push(Row { name: C::NAME, kind: C::KIND, bytes, save, restore });
        self
    }

    /// Measures, and prints.
    pub(crate) fn run(&mut self) {
        let (rounds, enough) = if quick() { (3, Duration::from_millis(1)) } else { (15, Duration::from_millis(20)) };
        for row in &mut self.rows {
            row.save.prepare(enough);
            row.restore.prepare(enough);
        }
        for _ in 0..rounds {
            self.rows.iter_mut().for_each(|row| row.save.round());
            self.rows.iter_mut().for_each(|row| row.restore.round());
        }
        let figures: Vec<Figures> = self
            .rows
            .iter_mut()
            .map(|row| Figures { save: row.save.median(), restore: row.restore.median(), bytes: row.bytes as f64 })
            .collect();
        self.print(&figures);
    }

    fn print(&self, figures: &[Figures]) {
        // Where there is a plain copy, it is what all are measured by.
        let copied = self.rows.iter().any(|row| row.kind == Kind::Memory);
        let (base, base_kind) = if copied { ("memcpy", Kind::Memory) } else { ("fastest tolerant", Kind::Tolerant) };
        let of = |kind| self.rows.iter().zip(figures).filter(move |(row, _)| row.kind == kind).map(|(_, one)| one);
        let fastest = Figures {
            save: of(base_kind).map(|one| one.save).fold(f64::INFINITY, f64::min),
            restore: of(base_kind).map(|one| one.restore).fold(f64::INFINITY, f64::min),
            bytes: f64::NAN,
        };
        let postcard = self.rows.iter().position(|row| row.name == Postcard::NAME).map_or(fastest, |at| figures[at]);

        println!("\n{}", self.title);
        println!(
            "| {:<28} | {:<16} | {:>12} | {:>12} | {:>11} | {:>24} | {:>27} | {:>33} |",
            "format",
            "version-tolerant",
            "save, us",
            "restore, us",
            "bytes",
            format!("save vs {base}"),
            format!("restore vs {base}"),
            "vs postcard: save, restore, bytes",
        );
        println!("|{0:-<30}|{0:-<18}|{0:->14}|{0:->14}|{0:->13}|{0:->26}|{0:->29}|{0:->35}|", "");
        for (row, one) in self.rows.iter().zip(figures) {
            let tolerant = match row.kind {
                Kind::Ours | Kind::Tolerant => "yes",
                Kind::Rigid => "no",
                Kind::Memory => "-",
            };
            println!(
                "| {:<28} | {tolerant:<16} | {:>12.1} | {:>12.1} | {:>11} | \
                 {:>23.2}x | {:>26.2}x | {:>16.2}x {:>6.2}x {:>7.2}x |",
                row.name,
                one.save,
                one.restore,
                row.bytes,
                one.save / fastest.save,
                one.restore / fastest.restore,
                one.save / postcard.save,
                one.restore / postcard.restore,
                one.bytes / postcard.bytes,
            );
        }
    }
}
