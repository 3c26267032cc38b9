//! Sees to it that the slots of a service keep the pages that its instances write to
//! ([`Clusters`]).
//!
//! It looks at slots from outside, while instances run in them, and changes no byte: to populate a
//! page has the content that the page has anyway. So whatever Wasmtime or a guest does to a slot
//! meanwhile, the worst is a page that is kept in vain.
#![allow(unsafe_code)] // A system call about memory, and one about memory's map.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::clusters::{Clusters, Pages, covers, joined, meets};

const PAGE: usize = 4096;
/// Runs of written pages that are asked for at a time.
const RUNS: usize = 512;
/// How soon it is looked again after something was done, and how seldom otherwise. It takes some
/// 20 us for each slot that was ever used.
const SOON: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_secs(1);

/// The slots of this process.
pub(crate) struct Slots {
    /// This process's `/proc/self/maps` and `pagemap`.
    maps: File,
    page_map: OwnedFd,
    /// The file that initial memories are mapped from.
    artifact: u64,
    most_pages: u32,
    /// By where in that file the initial memory is.
    known: HashMap<u64, Clusters>,
    next: Option<Instant>,
    pause: Duration,
}

/// A memory, with what of its slot can be accessed.
#[derive(Debug, PartialEq, Eq)]
struct Slot {
    bytes: Range<usize>,
    offset: u64,
}

impl Slots {
    /// The slots whose initial memory is mapped from the file with the inode `artifact`, each of
    /// which may keep `kept` bytes.
    pub(crate) fn new(maps: File, page_map: OwnedFd, artifact: u64, kept: usize) -> Self {
        Self {
            maps,
            page_map,
            artifact,
            // Some are left for what is not foreseen.
            most_pages: (kept / PAGE).saturating_sub(32) as u32,
            known: HashMap::new(),
            next: None,
            pause: SOON,
        }
    }

    /// Looks after the slots, if it is time to. Call it when an instance has done its work, before it
    /// goes: it shows then what instances write to.
    pub(crate) fn tend(&mut self) {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        // Nothing is lost but time if the kernel does not say or do what it is asked for.
        let has_changed = self.tend_all().unwrap_or(false);
        self.pause = if has_changed {
            SOON
        } else {
            SELDOM.min(self.pause * 2)
        };
        self.next = Some(now + self.pause);
    }

    /// Whether anything had to be done.
    fn tend_all(&mut self) -> io::Result<bool> {
        let mut table = String::new();
        self.maps.rewind()?;
        self.maps.read_to_string(&mut table)?;
        let mut has_changed = false;
        for slot in slots(&table, self.artifact) {
            let written = written(&self.page_map, &slot.bytes)?;
            let clusters = self.known.entry(slot.offset).or_default();
            clusters.learn(&written, self.most_pages);
            if written.is_empty() {
                continue;
            }
            // What a slot has nothing of, nobody in it has written to: it is idle, and what it keeps
            // has been counted.
            let missing = clusters
                .ranges()
                .iter()
                .filter(|range| meets(&written, range) && !covers(&written, range));
            for range in missing {
                populate(&slot.bytes, range)?;
                has_changed = true;
            }
        }
        Ok(has_changed)
    }
}

/// The slots in a table of this process's mappings (proc_pid_maps(5)): a private, writable mapping
/// of the artifact and what follows it without a gap.
fn slots(table: &str, artifact: u64) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    let mut is_open = false;
    for line in table.lines() {
        let mut fields = line.split_whitespace();
        let mut field = || fields.next().unwrap_or_default();
        let (addresses, flags, offset, _device, inode) =
            (field(), field(), field(), field(), field());
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        let bytes = addresses
            .split_once('-')
            .and_then(|(start, end)| Some(hexadecimal(start)?..hexadecimal(end)?));
        let Some(bytes) = bytes.filter(|_| flags == "rw-p") else {
            is_open = false;
            continue;
        };
        if inode.parse() == Ok(artifact) {
            let offset = hexadecimal(offset).unwrap_or_default() as u64;
            slots.push(Slot { bytes, offset });
            is_open = true;
        } else if is_open
            && inode == "0"
            && let Some(slot) = slots.last_mut()
            && slot.bytes.end == bytes.start
        {
            slot.bytes.end = bytes.end;
        } else {
            is_open = false;
        }
    }
    slots
}

/// `struct pm_scan_arg` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of_mask: u64,
    return_mask: u64,
}

/// `struct page_region` (linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

nix::ioctl_readwrite!(page_map_scan, b'f', 16, Scan);

/// The pages that were written to: those that are neither the file's nor the kernel's zero page.
fn written(page_map: &OwnedFd, bytes: &Range<usize>) -> io::Result<Vec<Pages>> {
    const FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const ZERO: u64 = 1 << 5;
    let mut regions = [Region::default(); RUNS];
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start: bytes.start as u64,
        end: bytes.end as u64,
        regions: regions.as_mut_ptr() as u64,
        regions_length: RUNS as u64,
        category_inverted: FILE | ZERO,
        category_mask: PRESENT | FILE | ZERO,
        ..Scan::default()
    };
    // SAFETY: both structures are those of the kernel, and live. It writes to `scan` and to as
    // many of `regions` as it is told that there are.
    let count = unsafe { page_map_scan(page_map.as_raw_fd(), &mut scan) }?;
    let page = |address: u64| ((address as usize).saturating_sub(bytes.start) / PAGE) as u32;
    let found = regions.iter().take(count as usize);
    Ok(joined(found.map(|it| page(it.start)..page(it.end))))
}

/// Gives pages of a slot memory of their own, with what is in them.
fn populate(slot: &Range<usize>, pages: &Pages) -> io::Result<()> {
    let start = slot.start + pages.start as usize * PAGE;
    let end = (slot.start + pages.end as usize * PAGE).min(slot.end);
    if start >= end {
        return Ok(());
    }
    // SAFETY: this changes no content, and fails where nothing is mapped or nothing may be
    // written to.
    let done = unsafe {
        libc::madvise(
            start as *mut libc::c_void,
            end - start,
            libc::MADV_POPULATE_WRITE,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn slots_are_found_in_a_table() {
        let table = "\
            7000-9000 r--p 00000000 fe:00 7   /code\n\
            10000-20000 rw-p 00005000 fe:00 7   /code\n\
            20000-30000 rw-p 00000000 00:00 0 \n\
            30000-40000 ---p 00000000 00:00 0 \n\
            50000-60000 rw-p 00005000 fe:00 7   /code\n\
            60000-70000 rw-p 00000000 fe:00 8   /other\n\
            70000-80000 rw-p 00000000 00:00 0 \n\
            nonsense\n";
        let slot = |bytes, offset| Slot { bytes, offset };
        assert_eq!(
            slots(table, 7),
            [
                slot(0x10000..0x30000, 0x5000),
                slot(0x50000..0x60000, 0x5000)
            ]
        );
        assert_eq!(slots(table, 9), []);
    }

    /// A memory as Wasmtime maps it, written to here and there, keeps its content and becomes one
    /// run where it is populated.
    #[test]
    fn populated_pages_have_what_they_had() {
        use std::os::unix::fs::MetadataExt;
        let Ok(page_map) = File::open("/proc/self/pagemap") else {
            return;
        };
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[7; 64 * PAGE]).unwrap();
        // SAFETY: the file is not changed while it is mapped.
        let map = unsafe { memmap(&file, 64 * PAGE) };
        for page in [3, 5, 9, 40] {
            map[page * PAGE] = 1;
        }
        let start = map.as_ptr() as usize;
        let bytes = start..start + 64 * PAGE;
        let page_map = OwnedFd::from(page_map);
        // Linux 6.7 and later.
        let Ok(found) = written(&page_map, &bytes) else {
            return;
        };
        assert_eq!(found, [3..4, 5..6, 9..10, 40..41]);
        let maps = File::open("/proc/self/maps").unwrap();
        let inode = file.metadata().unwrap().ino();
        let own = page_map.as_fd().try_clone_to_owned().unwrap();
        let mut slots = Slots::new(maps, own, inode, 64 * PAGE);
        slots.tend_all().unwrap();
        slots.tend_all().unwrap();
        assert_eq!(slots.known[&0].ranges(), found);
        populate(&bytes, &(3..10)).unwrap();
        assert_eq!(written(&page_map, &bytes).unwrap(), [3..10, 40..41]);
        for (page, content) in map.chunks(PAGE).enumerate() {
            let first = u8::from(![3, 5, 9, 40].contains(&page)) * 6 + 1;
            assert_eq!(content[0], first, "{page}");
            assert!(content[1..].iter().all(|byte| *byte == 7), "{page}");
        }
        // Nothing is mapped there.
        assert!(populate(&(PAGE..2 * PAGE), &(0..1)).is_err());
    }

    unsafe fn memmap(file: &File, length: usize) -> &'static mut [u8] {
        // SAFETY: a new private mapping, checked, and never unmapped.
        unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(at, libc::MAP_FAILED);
            std::slice::from_raw_parts_mut(at.cast(), length)
        }
    }
}
