//! The buffers that a ring's receives take turns with: an idle connection has none.
//!
//! A ring of provided buffers (`IORING_REGISTER_PBUF_RING`, Linux 5.19): the kernel takes the next free buffer when bytes have
//! come, and says which. It is lent until it is given back.

#![allow(unsafe_code, reason = "the kernel writes to this memory")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering::Release},
};

use uring::{Submitter, types::BufRingEntry};

/// The group that all receives of a ring name.
pub(super) const GROUP: u16 = 0;
/// What the kernel wants the ring aligned to.
const PAGE: usize = 4096;

/// How many buffers a ring has, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferShape {
    /// A power of two, at most 32,768.
    pub(super) count: u16,
    /// Bytes of each.
    pub(super) bytes: u32,
}

/// The buffers of one ring, in one allocation: first the entries that the kernel reads, then the buffers.
///
/// They must outlive the ring: [`super::ring::Ring`] drops it first.
#[derive(Debug)]
pub(super) struct Buffers {
    start: NonNull<u8>,
    layout: Layout,
    shape: BufferShape,
    /// How many were given to the kernel so far, wrapping.
    tail: u16,
}

impl Buffers {
    /// Allocates buffers and gives all of them to the kernel.
    ///
    /// # Errors
    /// The kernel is older than 5.19, or has no memory.
    pub(super) fn register(submitter: &Submitter<'_>, shape: BufferShape) -> io::Result<Self> {
        let count = usize::from(shape.count);
        let size = entries_bytes(shape) + count * shape.bytes as usize;
        let layout = Layout::from_size_align(size, PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is not 0, since both count and bytes are at least 1 (the settings' ranges).
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let mut buffers = Self {
            start,
            layout,
            shape,
            tail: 0,
        };
        // SAFETY: the address is page-aligned, has room for `count` entries, and stays until the ring is gone.
        unsafe {
            submitter.register_buf_ring_with_flags(start.as_ptr() as u64, shape.count, GROUP, 0)?;
        }
        for id in 0..shape.count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The first `n` bytes of a buffer that the kernel has filled.
    pub(super) fn filled(&mut self, id: u16, n: usize) -> &mut [u8] {
        assert!(id < self.shape.count && n <= self.shape.bytes as usize);
        // SAFETY: buffer and length are in bounds by the assertion; the memory is initialised (zeroed, then written by the
        // kernel); and the kernel leaves a buffer alone from its completion until it is given back, which `&mut self`
        // forbids while the slice lives.
        unsafe { slice::from_raw_parts_mut(self.buffer(id).as_ptr(), n) }
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.shape.count);
        let entries = self.start.cast::<BufRingEntry>();
        let at = self.tail & (self.shape.count - 1);
        let address = self.buffer(id).as_ptr() as u64;
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the entry is in bounds, and not the kernel's: it reads entries below the tail only, and of those we
        // give back none twice. The tail lies in the first entry's reserved field, which the setters do not touch; it is
        // written as an atomic because the kernel reads it from within the system call of any thread.
        unsafe {
            let entry = entries.add(usize::from(at)).as_mut();
            entry.set_addr(address);
            entry.set_len(self.shape.bytes);
            entry.set_bid(id);
            let tail = BufRingEntry::tail(entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Release);
        }
    }

    fn buffer(&self, id: u16) -> NonNull<u8> {
        let offset = entries_bytes(self.shape) + usize::from(id) * self.shape.bytes as usize;
        // SAFETY: the callers have checked `id`, so the offset lies within the allocation.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated by `register` with this layout; the ring that wrote to it was closed before.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Bytes of the entries, to the next page.
fn entries_bytes(shape: BufferShape) -> usize {
    (usize::from(shape.count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE)
}
