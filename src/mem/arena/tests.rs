use proptest::prelude::*;
use rustix::fs::{SealFlags, fstat};
use rustix::io::{FdFlags, fcntl_getfd};

use super::*;
use crate::mem::{Pfn, Pour as _, Pouring, Ram, Run};

pub(super) const SIZE: u64 = 1 << 20;

pub(super) fn arena() -> Arena {
    Arena::new(SIZE).unwrap()
}

fn admit(
    arena: &mut Arena,
    preserved: impl IntoIterator<Item = Folio>,
    nodes: impl IntoIterator<Item = PageRange>,
) -> Result<(), Fault> {
    arena.admit(&mut preserved.into_iter(), &mut nodes.into_iter())
}

pub(super) fn page() -> u64 {
    host_geometry().unwrap().page_size()
}

fn folio(arena: &Arena, page: u64, order: u32) -> Folio {
    let base = arena.base().page(arena.geometry()).unwrap().get();
    Folio::new(Pfn::new(base + page).unwrap(), Order::new(order).unwrap()).unwrap()
}

#[test]
fn a_new_arena_is_sealed_sparse_and_closed_on_exec() {
    let arena = Arena::new(Arena::DEFAULT_SIZE).unwrap();
    let stat = fstat(arena.fd()).unwrap();
    assert_eq!((stat.st_size as u64, stat.st_blocks * 512), (64 << 30, page() as i64), "only the header is there");
    let seals = rustix::fs::fcntl_get_seals(arena.fd()).unwrap();
    assert!(seals.contains(SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL), "{seals:?}");
    assert_eq!(stat.st_mode & 0o7777, 0o666, "not to be executed");
    if rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::EXEC).is_ok() {
        assert!(!seals.contains(SealFlags::EXEC), "Linux would seal it against writing on its way through a session");
    }
    assert_eq!(fcntl_getfd(arena.fd()).unwrap(), FdFlags::CLOEXEC);
    assert_eq!(fcntl_getfd(arena.fd().try_clone_to_owned().unwrap()).unwrap(), FdFlags::CLOEXEC);
    assert_eq!(arena.base().get(), 1 << 40);
    assert_eq!(arena.free_pages(), (64 << 30) / page() - 1);
    assert_eq!(arena.root(), None);
    assert_ne!(arena.nonce(), Arena::new(SIZE).unwrap().nonce());
}

#[test]
fn the_header_is_the_published_one() {
    let mut arena = arena();
    let at = PhysAddr::new(arena.base().get() + 3 * page());
    let before = arena.nonce();
    arena.set_root(PhysRange::new(at, 405)).unwrap();
    assert_ne!(arena.nonce(), before, "a handover of its own");
    let mut bytes = [0; 64];
    read_at(arena.fd(), 0, &mut bytes).unwrap();
    let mut expected = b"\x7fKHOARN\n\x01\0\0\0\x04\x03\x02\x01".to_vec();
    expected.extend(arena.geometry().page_shift().to_le_bytes());
    expected.extend([0; 4]);
    for word in [1 << 40, SIZE, at.get(), 405, arena.nonce()] {
        expected.extend(word.to_le_bytes());
    }
    assert_eq!(bytes.as_slice(), expected);
}

#[test]
fn blocks_larger_than_the_default_base_are_aligned_in_the_memfd_too() {
    let arena = Arena::new(5 << 40).unwrap();
    assert_eq!(arena.base().get(), 4 << 40);
    let nonce = arena.nonce();
    assert_eq!(Arena::open(arena.into_fd().unwrap()).unwrap().nonce(), nonce);
}

#[test]
fn bytes_reach_the_successor() {
    let mut old = arena();
    let frame = old.alloc(Order::new(2).unwrap()).unwrap();
    old.write(&frame, page() - 2, b"across").unwrap();
    old.set_root(PhysRange::new(frame.folio().addr(old.geometry()), 99)).unwrap();
    let (root, nonce, folio) = (old.root(), old.nonce(), frame.folio());

    let mut new = Arena::open(old.into_fd().unwrap()).unwrap();
    assert_eq!((new.root(), new.nonce(), new.size()), (root, nonce, SIZE));
    admit(&mut new, [folio], []).unwrap();
    let frame = new.claim(folio).unwrap();
    assert_eq!(&new.bytes(&frame).unwrap()[page() as usize - 2..][..6], b"across");
    let mut bytes = [0; 6];
    new.read(PhysAddr::new(folio.addr(new.geometry()).get() + page() - 2), &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    assert_eq!(fcntl_getfd(new.fd()).unwrap(), FdFlags::CLOEXEC);
}

#[test]
fn reads_and_writes_stay_inside() {
    let mut arena = arena();
    let (base, end) = (arena.base().get(), arena.base().get() + SIZE);
    let frame = arena.alloc(Order::ZERO).unwrap();
    let outside = |at, len| MemError::Outside { at: PhysAddr::new(at), len };
    let mut two = [0; 2];
    // The header page is not memory.
    for at in [0, base - 1, base, base + page() - 1, end - 1, end, u64::MAX] {
        assert_eq!(arena.read(PhysAddr::new(at), &mut two), Err(outside(at, 2)));
    }
    arena.read(PhysAddr::new(end - 2), &mut two).unwrap();
    let start = frame.folio().addr(arena.geometry()).get();
    assert_eq!(arena.write(&frame, page() - 1, b"xy"), Err(outside(start + page() - 1, 2)));
    assert_eq!(arena.write(&frame, u64::MAX, b"x"), Err(outside(u64::MAX, 1)));
}

#[test]
fn a_frame_of_another_arena_is_refused() {
    let (mut one, mut two) = (arena(), arena());
    let mut frame = one.alloc(Order::ZERO).unwrap();
    let not_held = MemError::NotHeld { folio: frame.folio() };
    assert_eq!(two.write(&frame, 0, b"x"), Err(not_held.clone()));
    assert_eq!(two.bytes(&frame), Err(not_held.clone()));
    assert_eq!(two.bytes_mut(&mut frame), Err(not_held.clone()));
    let failed = two.map_contiguous(vec![frame]).unwrap_err();
    assert_eq!((failed.error, failed.frames.len()), (not_held, 1));
    let free = two.free_pages();
    for frame in failed.frames {
        two.free(frame);
    }
    assert_eq!(two.free_pages(), free);
}

#[test]
fn pages_that_are_used_again_are_zero_and_freed_memory_goes_back() {
    let mut arena = arena();
    let order = Order::new(4).unwrap();
    let mut frame = arena.alloc(order).unwrap();
    arena.bytes_mut(&mut frame).unwrap().fill(0xaa);
    let folio = frame.folio();
    arena.free(frame);
    assert_eq!(fstat(arena.fd()).unwrap().st_blocks * 512, page() as i64, "all but the header was punched");
    let frame = arena.alloc(order).unwrap();
    assert_eq!(frame.folio(), folio);
    assert!(arena.bytes(&frame).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn what_a_predecessor_left_lying_is_zero_when_it_is_allocated() {
    let mut old = arena();
    while let Ok(mut frame) = old.alloc(Order::ZERO) {
        // Never freed, never preserved.
        old.bytes_mut(&mut frame).unwrap().fill(0x55);
    }
    let mut new = Arena::open(old.into_fd().unwrap()).unwrap();
    admit(&mut new, [], []).unwrap();
    assert_eq!(new.free_pages(), SIZE / page() - 1);
    let frame = new.alloc(Order::new(3).unwrap()).unwrap();
    assert!(new.bytes(&frame).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn nothing_is_free_before_it_is_known_what_was_preserved() {
    let mut arena = Arena::open(arena().into_fd().unwrap()).unwrap();
    let folio = folio(&arena, 1, 0);
    assert_eq!(arena.free_pages(), 0);
    assert_eq!(arena.alloc(Order::ZERO), Err(MemError::Exhausted { order: Order::ZERO }));
    assert_eq!(arena.claim(folio), Err(MemError::NotHeld { folio }));
    assert_eq!(arena.release_rest().unwrap_err().code(), Code::Refused);
    assert_eq!(arena.set_root(None).unwrap_err().code(), Code::Refused);
    assert_eq!(arena.unclaimed().count(), 0);
}

#[test]
fn each_preserved_block_can_be_claimed_once_and_as_it_is() {
    let mut arena = Arena::open(arena().into_fd().unwrap()).unwrap();
    let (block, single) = (folio(&arena, 8, 3), folio(&arena, 2, 0));
    let node = folio(&arena, 1, 0);
    admit(&mut arena, [block, single], [node.range()]).unwrap();
    assert_eq!(arena.free_pages(), SIZE / page() - 1 - 8 - 1 - 1);
    for not_preserved in [folio(&arena, 8, 0), folio(&arena, 8, 2), folio(&arena, 9, 0), folio(&arena, 3, 0), node] {
        assert_eq!(arena.claim(not_preserved), Err(MemError::NotHeld { folio: not_preserved }));
    }
    assert_eq!(arena.unclaimed().collect::<Vec<_>>(), [single, block]);
    let frame = arena.claim(block).unwrap();
    assert_eq!(arena.claim(block), Err(MemError::NotHeld { folio: block }));
    assert_eq!(arena.unclaimed().collect::<Vec<_>>(), [single]);
    assert_eq!(frame.folio(), block);

    arena.release_rest().unwrap();
    assert_eq!(arena.free_pages(), SIZE / page() - 1 - 8);
    assert_eq!(arena.unclaimed().count(), 0);
    assert_eq!(arena.claim(single), Err(MemError::NotHeld { folio: single }));
    arena.free(frame);
    assert_eq!(arena.free_pages(), SIZE / page() - 1);
    arena.release_rest().unwrap();
}

#[test]
fn until_it_is_finished_a_restore_can_be_undone() {
    let mut old = arena();
    let mut keep = old.alloc(Order::new(2).unwrap()).unwrap();
    let mut tree = old.alloc(Order::ZERO).unwrap();
    old.bytes_mut(&mut keep).unwrap().fill(1);
    old.bytes_mut(&mut tree).unwrap().fill(2);
    let (keep, tree) = (keep.folio(), tree.folio());
    old.set_root(PhysRange::new(keep.addr(old.geometry()), 8)).unwrap();
    let root = old.root();

    let mut new = Arena::open(old.into_fd().unwrap()).unwrap();
    admit(&mut new, [keep], [tree.range()]).unwrap();
    let frame = new.claim(keep).unwrap();
    new.free(frame);
    assert_eq!(new.unclaimed().collect::<Vec<_>>(), [keep]);
    // Every page that is free is written; none of them was preserved.
    while let Ok(mut frame) = new.alloc(Order::ZERO) {
        new.bytes_mut(&mut frame).unwrap().fill(0xff);
    }

    let mut again = Arena::open(new.into_fd().unwrap()).unwrap();
    assert_eq!(again.root(), root);
    admit(&mut again, [keep], [tree.range()]).unwrap();
    let frame = again.claim(keep).unwrap();
    assert!(again.bytes(&frame).unwrap().iter().all(|&byte| byte == 1));
    let mut node = vec![0; page() as usize];
    again.read(tree.addr(again.geometry()), &mut node).unwrap();
    assert!(node.iter().all(|&byte| byte == 2));

    again.release_rest().unwrap();
    assert_eq!(again.root(), None);
    assert_eq!(Arena::open(again.fd().try_clone_to_owned().unwrap()).unwrap().root(), None, "in the header too");
    again.read(tree.addr(again.geometry()), &mut node).unwrap();
    assert!(node.iter().all(|&byte| byte == 0), "the tree is gone");
}

#[test]
fn a_rebuild_of_what_cannot_be_changes_nothing() {
    let arena_of = || Arena::open(arena().into_fd().unwrap()).unwrap();
    let mut arena = arena_of();
    let last = SIZE / page();
    let at = |page, order| folio(&arena, page, order);
    let cases = [
        (vec![at(4, 2), at(5, 0)], vec![], Code::PreservedTwice, 5),
        (vec![at(4, 0), at(4, 0)], vec![], Code::PreservedTwice, 4),
        (vec![at(4, 0), at(4, 2)], vec![], Code::PreservedTwice, 4),
        (vec![at(4, 2)], vec![at(6, 0).range()], Code::OwnedTwice, 6),
        (vec![at(6, 0)], vec![at(4, 2).range()], Code::OwnedTwice, 6),
        (vec![], vec![at(4, 2).range(), at(7, 0).range()], Code::OwnedTwice, 7),
        // The header, before the arena, behind it.
        (vec![at(0, 0)], vec![], Code::Outside, 0),
        (vec![Folio::page(Pfn::new(3).unwrap())], vec![], Code::Outside, 3),
        (vec![at(last, 0)], vec![], Code::Outside, last),
        (vec![], vec![PageRange::new(at(last - 1, 0).pfn(), 2).unwrap()], Code::Outside, last - 1),
    ];
    for (folios, nodes, code, page_number) in cases {
        let fault = admit(&mut arena, folios, nodes).unwrap_err();
        let near = arena.base().get() + page_number * page();
        assert_eq!(fault.code(), code, "{fault}");
        assert!([Some(near), Some(page_number * page())].contains(&fault.at().address), "{fault}");
        assert_eq!(arena.free_pages(), 0);
    }
    let good = folio(&arena, 1, 0);
    admit(&mut arena, [good], []).unwrap();
    let frame = arena.claim(good).unwrap();
    admit(&mut arena, [good], []).unwrap();
    assert!(!arena.holds(&frame), "admitted again, what was claimed before is void");
    let frame = arena.claim(good).unwrap();
    let mapping = arena.map_contiguous(vec![frame]).unwrap();
    assert_eq!(admit(&mut arena, [good], []).unwrap_err().code(), Code::Refused, "it is mapped");
    drop(mapping);
    admit(&mut arena, [good], []).unwrap();
}

#[test]
fn one_owner_of_one_memfd_in_one_process() {
    let mut old = arena();
    let frame = old.alloc(Order::ZERO).unwrap();
    let folio = frame.folio();
    let mut new = Arena::open(old.fd().try_clone_to_owned().unwrap()).unwrap();
    // Reading is no harm: a plan can be made while the predecessor runs.
    new.read(folio.addr(new.geometry()), &mut [0]).unwrap();
    assert_eq!(admit(&mut new, [folio], []).unwrap_err().code(), Code::Refused);
    let mapping = old.map_contiguous(vec![frame]).unwrap();
    drop(old);
    assert_eq!(admit(&mut new, [folio], []).unwrap_err().code(), Code::Refused, "the mapping is there still");
    drop(mapping);
    admit(&mut new, [folio], []).unwrap();
}

#[test]
fn holes_are_not_poured() {
    let mut arena = Arena::new(1 << 40).unwrap();
    let order = Order::holding(1 << 38, arena.geometry()).unwrap();
    let block = arena.alloc(order).unwrap();
    let middle = 0x1234 * page();
    arena.write(&block, middle + 7, b"hello").unwrap();
    let file = memfd_create("poured", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 1 << 38).unwrap();
    let at = block.folio().addr(arena.geometry());
    let run = |skip: u64, len| Run { from: at.checked_add(skip).unwrap(), len, offset: skip };
    let runs = vec![run(0, middle + 9), run(middle + 9, (1 << 38) - middle - 9)];
    arena.pour(runs, file.as_fd()).and_then(Pouring::wait).unwrap();
    let mut bytes = [1; 14];
    read_at(file.as_fd(), middle, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0\0\0hello\0\0");
    assert_eq!(fstat(&file).unwrap().st_blocks * 512, page() as i64, "one page was written");
}

#[test]
fn nothing_is_poured_into_an_arena_that_is_in_use() {
    let (mut from, mut to) = (Arena::new(8 << 20).unwrap(), arena());
    let (source, mut target) = (from.alloc(Order::new(9).unwrap()).unwrap(), to.alloc(Order::ZERO).unwrap());
    from.write(&source, 0, b"changed").unwrap();
    for (len, file) in [(7, to.fd()), (2 << 20, to.fd()), (7, from.fd())] {
        let run = Run { from: source.folio().addr(from.geometry()), len, offset: page() };
        let slice = to.bytes_mut(&mut target).unwrap();
        let refused = from.pour(vec![run], file).and_then(Pouring::wait);
        assert!(matches!(refused, Err(MemError::Io { .. })), "{refused:?}");
        assert_eq!(&slice[..7], &[0; 7]);
    }
    // While it is poured into, a memfd does not become an arena in use either.
    let run = Run { from: source.folio().addr(from.geometry()), len: 2 << 20, offset: page() };
    let mut left = Arena::open(Arena::new(4 << 20).unwrap().into_fd().unwrap()).unwrap();
    let file = left.fd().try_clone_to_owned().unwrap();
    let pouring = from.pour(vec![run], file.as_fd()).unwrap();
    pouring.wait().unwrap();
    admit(&mut left, [], []).unwrap();
}

#[test]
fn a_root_outside_the_arena_is_not_written() {
    let mut arena = arena();
    let (good, nonce) = (PhysAddr::new(arena.base().get() + page()), arena.nonce());
    for (at, size) in [(arena.base().get(), 8), (arena.base().get() + SIZE - 1, 2), (0, 7), (good.get(), 0)] {
        assert_eq!(arena.set_root(PhysRange::new(PhysAddr::new(at), size)).unwrap_err().code(), Code::Outside);
    }
    assert_eq!((arena.root(), arena.nonce()), (None, nonce));
    arena.set_root(PhysRange::new(good, 48)).unwrap();
    assert_eq!(arena.root(), Some((good, 48)));
    arena.set_root(None).unwrap();
    assert_eq!(arena.root(), None);
}

#[test]
fn a_hundred_thousand_scattered_blocks() {
    let old = Arena::new(2 << 30).unwrap();
    let mut arena = Arena::open(old.into_fd().unwrap()).unwrap();
    let folios: Vec<Folio> = (0..100_000).map(|i| folio(&arena, 2 + 2 * i, 0)).collect();
    let start = std::time::Instant::now();
    // The order of a radix tree is not that of addresses.
    admit(&mut arena, folios.iter().rev().copied(), []).unwrap();
    let rebuilt = start.elapsed();
    let frames: Vec<Frame> = folios.iter().map(|&folio| arena.claim(folio).unwrap()).collect();
    println!("100k scattered: rebuild {rebuilt:?}, claim {:?}", start.elapsed() - rebuilt);
    assert_eq!((frames.len(), arena.unclaimed().count()), (100_000, 0));
    assert_eq!(arena.free_pages(), (2 << 30) / page() - 1 - 100_000);
}

proptest! {
    /// Ordinary memory is the model: the same calls give the same blocks and the same bytes.
    #[test]
    fn like_ram(steps in proptest::collection::vec((0_u8..4, any::<u16>(), 0_u32..5, any::<u8>()), 1..80)) {
        let mut arena = Arena::new(64 * page()).unwrap();
        let mut ram = Ram::new(arena.geometry(), arena.frames.window());
        let mut held: Vec<(Frame, Frame)> = Vec::new();
        for (what, number, order, byte) in steps {
            let pick = usize::from(number).checked_rem(held.len());
            match (what, pick) {
                (0 | 1, _) => {
                    let order = Order::new(order).unwrap();
                    match (arena.alloc(order), ram.alloc(order)) {
                        (Ok(ours), Ok(model)) => {
                            prop_assert_eq!(ours.folio(), model.folio());
                            held.push((ours, model));
                        }
                        (ours, model) => prop_assert_eq!(ours.unwrap_err(), model.unwrap_err()),
                    }
                }
                (2, Some(pick)) => {
                    let (ours, model) = held.swap_remove(pick);
                    arena.free(ours);
                    ram.free(model);
                }
                (_, Some(pick)) => {
                    let (ours, model) = &mut held[pick];
                    let bytes = vec![byte; usize::from(number) % 9000];
                    let result = arena.write(ours, number.into(), &bytes);
                    prop_assert_eq!(&result, &ram.write(model, number.into(), &bytes));
                    // And once more through the slice.
                    arena.bytes_mut(ours).unwrap()[0] = byte;
                    ram.write(model, 0, &[byte]).unwrap();
                }
                (_, None) => {}
            }
            prop_assert_eq!(arena.free_pages(), ram.free_pages());
        }
        let window = arena.frames.window().bytes(arena.geometry());
        let (mut ours, mut model) = (vec![1; window.size() as usize], vec![2; window.size() as usize]);
        arena.read(window.start(), &mut ours).unwrap();
        ram.read(window.start(), &mut model).unwrap();
        // What was freed is zero here; the model clears it when it is allocated.
        for (frame, _) in &held {
            let at = (frame.folio().addr(arena.geometry()).get() - window.start().get()) as usize;
            let len = frame.folio().order().bytes(arena.geometry()) as usize;
            prop_assert!(ours[at..at + len] == model[at..at + len]);
            prop_assert!(arena.bytes(frame).unwrap() == &model[at..at + len]);
        }
    }
}
