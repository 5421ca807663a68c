//! Per-core pools: copy buffers and splice(2) pipes. A flow holds one only while bytes of its
//! are in user space's hands.

use std::{
    cell::{Cell, RefCell},
    io,
    ops::{Deref, DerefMut},
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Size of a copy buffer, bytes.
pub const BUFFER_SIZE: usize = 64 * 1024;
/// Capacity asked for a pipe, bytes: more than the default, which is 64 KiB, for fewer calls
/// a byte. `/proc/sys/fs/pipe-user-pages-soft` may refuse it; then it keeps the default.
pub const PIPE_SIZE: usize = 256 * 1024;
/// Idle buffers and pipes that a core keeps.
const KEEP: usize = 64;

/// A core's buffers and pipes.
#[derive(Clone, Debug, Default)]
pub struct Pool(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buffers: RefCell<Vec<Box<[u8]>>>,
    pipes: RefCell<Vec<PipeEnds>>,
    /// Pipes that there are, idle or not.
    open_pipes: Cell<usize>,
    most_pipes: Cell<usize>,
}

#[derive(Debug)]
struct PipeEnds {
    read: OwnedFd,
    write: OwnedFd,
}

/// A buffer of [`BUFFER_SIZE`] bytes; returns to its pool by `Drop`.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    pool: Pool,
}

/// An empty pipe; returns to its pool by `Drop`, unless bytes are left in it.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<PipeEnds>,
    pool: Pool,
    /// Bytes in it.
    pub held: usize,
}

impl Pool {
    /// A pool with at most so many pipes at once.
    #[must_use]
    pub fn new(most_pipes: usize) -> Self {
        Self(Rc::new(Inner { most_pipes: Cell::new(most_pipes), ..Inner::default() }))
    }

    /// Changes how many pipes there may be. Those beyond are closed when they are idle.
    pub fn resize(&self, most_pipes: usize) {
        self.0.most_pipes.set(most_pipes);
        let mut idle = self.0.pipes.borrow_mut();
        while self.0.open_pipes.get() > most_pipes && idle.pop().is_some() {
            self.0.open_pipes.set(self.0.open_pipes.get() - 1);
        }
    }

    /// A buffer, with whatever its last user left in it.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        let bytes = self.0.buffers.borrow_mut().pop();
        Buffer {
            bytes: bytes.unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice()),
            pool: self.clone(),
        }
    }

    /// An empty pipe.
    ///
    /// # Errors
    /// pipe2(2)'s: `EMFILE`, which it also is when the pool has as many as it may; `ENFILE`.
    pub fn pipe(&self) -> io::Result<Pipe> {
        let ends = match self.0.pipes.borrow_mut().pop() {
            Some(ends) => ends,
            None if self.0.open_pipes.get() >= self.0.most_pipes.get() => {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            None => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                // Refused (the user's pages are used up): the default size works too.
                let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
                self.0.open_pipes.set(self.0.open_pipes.get() + 1);
                PipeEnds { read, write }
            }
        };
        Ok(Pipe { ends: Some(ends), pool: self.clone(), held: 0 })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.pool.0.buffers.borrow_mut();
        if kept.len() < KEEP {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Pipe {
    /// The end to read from.
    ///
    /// # Panics
    /// Never: the ends are there until `Drop`.
    #[must_use]
    pub fn read_end(&self) -> &OwnedFd {
        &self.ends.as_ref().expect("until drop").read
    }

    /// The end to write to.
    ///
    /// # Panics
    /// Never: the ends are there until `Drop`.
    #[must_use]
    pub fn write_end(&self) -> &OwnedFd {
        &self.ends.as_ref().expect("until drop").write
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A pipe with a flow's bytes in it must never serve another flow.
        let Some(ends) = self.ends.take() else { return };
        let mut kept = self.pool.0.pipes.borrow_mut();
        let inner = &self.pool.0;
        let too_many = inner.open_pipes.get() > inner.most_pipes.get();
        if self.held == 0 && kept.len() < KEEP && !too_many {
            kept.push(ends);
        } else {
            inner.open_pipes.set(inner.open_pipes.get().saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_with_bytes_left_is_not_reused() {
        let pool = Pool::new(8);
        let mut pipe = pool.pipe().unwrap();
        rustix::io::write(pipe.write_end(), b"left").unwrap();
        pipe.held = 4;
        drop(pipe);
        assert!(pool.0.pipes.borrow().is_empty());
        drop(pool.pipe().unwrap());
        assert_eq!(pool.0.pipes.borrow().len(), 1);
    }

    #[test]
    fn there_are_no_more_pipes_than_the_pool_may_have() {
        let pool = Pool::new(2);
        let (first, second) = (pool.pipe().unwrap(), pool.pipe().unwrap());
        assert_eq!(pool.pipe().unwrap_err().raw_os_error(), Some(libc::EMFILE));
        drop(first);
        let mut again = pool.pipe().unwrap();
        assert!(pool.pipe().is_err());
        // One that is closed, not kept, makes room as well.
        again.held = 1;
        drop(again);
        drop((pool.pipe().unwrap(), second));
    }

    #[test]
    fn fewer_pipes_are_allowed_from_now_on() {
        let pool = Pool::new(3);
        let (first, second, third) =
            (pool.pipe().unwrap(), pool.pipe().unwrap(), pool.pipe().unwrap());
        drop(first);
        pool.resize(1);
        assert_eq!((pool.0.open_pipes.get(), pool.0.pipes.borrow().len()), (2, 0));
        drop(second);
        assert!(pool.pipe().is_err(), "the third is the one that there may be");
        drop(third);
        assert_eq!(pool.0.pipes.borrow().len(), 1);
        drop(pool.pipe().unwrap());
    }

    #[test]
    fn buffers_are_reused_up_to_a_bound() {
        let pool = Pool::new(8);
        let many: Vec<_> = (0..KEEP + 5).map(|_| pool.buffer()).collect();
        drop(many);
        assert_eq!(pool.0.buffers.borrow().len(), KEEP);
    }
}
