//! How the allocator treats the buffers of a transfer.

use std::hint;

/// Blocks up to this size are used again once they are freed.
const LARGEST_BUFFER: usize = 16 * 1024 * 1024;

/// Has the C library's allocator keep what is freed, up to twice [`LARGEST_BUFFER`], for the next buffer.
///
/// glibc gives a large block back to the system as soon as it is freed, and the next one is faulted in page by page: a fifth of the
/// system's time in a large pull. It raises that threshold to the size of the largest block that it has seen freed (malloc/malloc.c,
/// the dynamic threshold), so that one block is allocated and freed for it to see. None of its pages is touched. Other allocators have
/// their own ways, and lose nothing by it.
pub(crate) fn keep_buffers() {
    drop(hint::black_box(Vec::<u8>::with_capacity(LARGEST_BUFFER)));
}
