//! The limit of mappings of a real process. Alone in its file: whatever ran beside it would hit the limit too.

use kho::mem::{Arena, Frame, Frames as _, Order};

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn more_scattered_blocks_than_the_kernel_maps_are_copied() {
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if limit > 200_000 {
        println!("vm.max_map_count is {limit}: too many to try");
        return;
    }
    let mut arena = Arena::new(4 << 30).unwrap();
    let mut frames: Vec<Frame> = Vec::new();
    for number in 0..limit as u64 + 100 {
        let frame = arena.alloc(Order::ZERO).unwrap();
        let _between = arena.alloc(Order::ZERO).unwrap();
        arena.write(&frame, 0, &number.to_le_bytes()).unwrap();
        frames.push(frame);
    }
    let page = frames[0].folio().order().bytes(kho::mem::Memory::geometry(&arena)) as usize;
    let before = mappings();

    // Counted before anything is mapped; and without asking, so that the kernel refuses in the middle.
    for limit in [None, Some(usize::MAX)] {
        let start = std::time::Instant::now();
        let copy = arena.map_contiguous_within(frames, limit).unwrap();
        println!("{} pages with limit {limit:?}: {:?}", copy.len() / page, start.elapsed());
        assert!(copy.is_copy());
        assert!(copy.chunks(page).zip(0_u64..).all(|(page, number)| page[..8] == number.to_le_bytes()));
        // One for the copy. Where the kernel refused in the middle, the addresses of that block stay reserved.
        let reserved = usize::from(limit.is_some());
        assert!(mappings() <= before + 1 + reserved, "{} mappings, {before} before", mappings());
        frames = copy.into_frames();
        assert!(mappings() <= before + reserved);
    }
}
