//! User space's half of one way's books, as a pure state machine: no socket, no clock.
//!
//! [`Ledger::step`] says what to do next, the driver ([`super::sockmap`]) does it and reports
//! back. The invariants are numbered in `LIFECYCLE.md`.

use std::fmt;

use mux_common::KernelBook;

/// One way of a spliced flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Bytes of the stream taken from the source before the insertion.
    taken_before: u64,
    /// Published: read since insertion and completely given to the destination.
    read: u64,
    /// Published: the destination's count of what it was given other than by redirect.
    written: u64,
    /// The source is not in the map: it is read like any socket.
    plain: bool,
    /// Bytes in hand: read, and not published yet.
    held: u64,
    /// Of those, given to the destination.
    flushed: u64,
    /// Nothing redirected waits ahead of what is in hand (L2).
    clear: bool,
    /// The source's FIN came in.
    fin: bool,
    /// Every byte before the FIN is accounted for (L4).
    accounted: bool,
    /// The FIN was passed on.
    ended: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something happens.
    Rest,
    /// Find out how many bytes the destination's TCP has taken, and [`Ledger::sent`].
    AskSent,
    /// Find out how many bytes the source's TCP has received, and [`Ledger::received`].
    AskReceived,
    /// Read at most so many bytes from the source, and [`Ledger::was_read`].
    Read(u64),
    /// Write what is in hand, from this offset on, and [`Ledger::was_written`].
    Write(u64),
    /// [`Ledger::publish`], and look again.
    Publish,
    /// Pass the FIN on, and [`Ledger::was_shut`].
    Shutdown,
    /// Reset both ends.
    Broken(u32),
}

/// A socket's count contradicts the books: bytes went twice or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imbalance {
    /// Bytes the books know of, the FIN counted as 1.
    pub booked: u64,
    /// Bytes the socket counts: received by the source, or taken by the destination.
    pub counted: u64,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the books hold {} bytes, the socket counts {}", self.booked, self.counted)
    }
}

impl Ledger {
    /// The way's books at insertion: `taken_before` bytes were read from the source (and are the
    /// destination's), which has been given `sent_before` bytes in its own count.
    #[must_use]
    pub const fn new(taken_before: u64, sent_before: u64) -> Self {
        Self {
            taken_before,
            read: 0,
            written: sent_before,
            plain: false,
            held: 0,
            flushed: 0,
            clear: false,
            fin: false,
            accounted: false,
            ended: false,
        }
    }

    /// What to do next, given the kernel's half.
    #[must_use]
    pub const fn step(&self, book: &KernelBook) -> Step {
        if book.broken != 0 {
            return Step::Broken(book.broken);
        }
        if self.ended {
            return Step::Rest;
        }
        if self.held > 0 {
            return if self.flushed == self.held {
                Step::Publish
            } else if !self.clear {
                Step::AskSent
            } else {
                Step::Write(self.flushed)
            };
        }
        if self.plain && !self.fin {
            return Step::Read(u64::MAX);
        }
        if !self.plain && book.passed > self.read {
            // Exactly what was passed, never more: what the verdict has not seen is not ours (L1).
            return Step::Read(book.passed - self.read);
        }
        if self.fin {
            return if !self.accounted {
                Step::AskReceived
            } else if !self.clear {
                Step::AskSent
            } else {
                Step::Shutdown
            };
        }
        Step::Rest
    }

    /// Reports how many bytes the destination's TCP has taken in all; true: nothing that was
    /// redirected waits any more.
    pub const fn sent(&mut self, sent: u64, book: &KernelBook) -> bool {
        self.clear = sent >= self.written + self.flushed + book.redirected;
        self.clear
    }

    /// Reports how many bytes the source's TCP has received in all, its FIN among them; `book`
    /// was read after that. True: all of them are in the books.
    ///
    /// # Errors
    /// [`Imbalance`]: the books hold more than the source received.
    pub const fn received(&mut self, received: u64, book: &KernelBook) -> Result<bool, Imbalance> {
        // The FIN counts as 1.
        let booked = self.taken_before + self.read + self.held + book.redirected + 1;
        if booked > received {
            return Err(Imbalance { booked, counted: received });
        }
        self.accounted = booked == received && book.passed == self.read + self.held;
        Ok(self.accounted)
    }

    /// Checks a way that is over: its destination's TCP has taken `sent` bytes in all.
    ///
    /// # Errors
    /// [`Imbalance`].
    pub const fn audit(&self, sent: u64, book: &KernelBook) -> Result<(), Imbalance> {
        // The FIN that was passed on counts as 1.
        let booked = self.written + book.redirected + 1;
        if booked == sent { Ok(()) } else { Err(Imbalance { booked, counted: sent }) }
    }

    /// Checks a way whose flow leaves the kernel relay alive: its destination's TCP has taken `sent`
    /// bytes in all, of which none is on its way any more.
    ///
    /// # Errors
    /// [`Imbalance`].
    pub const fn audit_left(&self, sent: u64, book: &KernelBook) -> Result<(), Imbalance> {
        let booked = self.written + book.redirected;
        if booked == sent { Ok(()) } else { Err(Imbalance { booked, counted: sent }) }
    }

    /// Checks a way that is cut short, where equalities do not hold any more: its destination's TCP
    /// cannot have taken more than it was given. `sent` was asked before `book` was read.
    ///
    /// # Errors
    /// [`Imbalance`].
    pub const fn audit_given(&self, sent: u64, book: &KernelBook) -> Result<(), Imbalance> {
        let booked = self.written + self.flushed + book.redirected + self.ended as u64;
        if booked >= sent { Ok(()) } else { Err(Imbalance { booked, counted: sent }) }
    }

    /// The same of its source: the books cannot hold more than its TCP has received. `book` was read
    /// before `received` was asked.
    ///
    /// # Errors
    /// [`Imbalance`].
    pub const fn audit_taken(&self, received: u64, book: &KernelBook) -> Result<(), Imbalance> {
        let read = self.read + self.held;
        let passed = if book.passed > read { book.passed } else { read };
        let booked = self.taken_before + passed + book.redirected;
        if booked <= received { Ok(()) } else { Err(Imbalance { booked, counted: received }) }
    }

    /// Whether the books hold every byte of a source that has received so many, its FIN among them,
    /// read or not.
    #[must_use]
    pub const fn knows_all(&self, received: u64, book: &KernelBook) -> bool {
        self.taken_before + book.passed + book.redirected + 1 == received
    }

    /// Bytes of a source that has received so many, without its FIN, of which the books know nothing:
    /// no verdict has run for them.
    #[must_use]
    pub const fn unseen(&self, received: u64, book: &KernelBook) -> u64 {
        received.saturating_sub(self.taken_before + book.passed + book.redirected)
    }

    /// Passed bytes that have not been read.
    #[must_use]
    pub const fn unread(&self, book: &KernelBook) -> u64 {
        book.passed.saturating_sub(self.read + self.held)
    }

    /// Bytes that user space has carried since insertion.
    #[must_use]
    pub const fn carried(&self) -> u64 {
        self.read + self.flushed
    }

    /// Reports that `bytes` were read from the source.
    pub const fn was_read(&mut self, bytes: u64) {
        self.held = bytes;
        self.flushed = 0;
    }

    /// Reports that `bytes` of what is in hand were given to the destination.
    pub const fn was_written(&mut self, bytes: u64) {
        self.flushed += bytes;
    }

    /// Moves what is in hand to the books; returns (`read`, `written`) to publish.
    pub const fn publish(&mut self) -> (u64, u64) {
        self.read += self.held;
        self.written += self.held;
        self.held = 0;
        self.flushed = 0;
        // From now on the kernel may redirect again: the next time, look again (L2).
        self.clear = false;
        (self.read, self.written)
    }

    /// The source did not enter the map: all its bytes are user space's to read.
    pub const fn read_plainly(&mut self) {
        self.plain = true;
    }

    /// Whether the source is read like any socket.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Reports the end of a source that is read plainly, where 0 is the end.
    pub const fn saw_plain_end(&mut self) {
        self.fin = true;
        self.accounted = true;
    }

    /// Reports the source's FIN.
    pub const fn saw_fin(&mut self) {
        self.fin = true;
    }

    /// Whether the source's FIN came in.
    #[must_use]
    pub const fn has_fin(&self) -> bool {
        self.fin
    }

    /// Reports that the FIN was passed on.
    pub const fn was_shut(&mut self) {
        self.ended = true;
    }

    /// Whether the way is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.ended
    }

    /// Bytes in hand.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Bytes of the stream taken from the source in all.
    #[must_use]
    pub const fn taken(&self, book: &KernelBook) -> u64 {
        self.taken_before + self.read + self.held + book.redirected
    }

    /// Bytes of the stream meant for the destination that it may not have taken yet: in hand, or
    /// redirected and beyond `sent`.
    #[must_use]
    pub const fn outstanding(&self, sent: u64, book: &KernelBook) -> u64 {
        (self.held - self.flushed) + self.redirect_outstanding(sent, book)
    }

    /// Of those, the ones that were redirected (or written) and are beyond `sent`.
    #[must_use]
    pub const fn redirect_outstanding(&self, sent: u64, book: &KernelBook) -> u64 {
        (self.written + self.flushed + book.redirected).saturating_sub(sent)
    }
}

#[cfg(test)]
mod leaving;
#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn book(passed: u64, redirected: u64) -> KernelBook {
        KernelBook { passed, redirected, ..KernelBook::default() }
    }

    #[test]
    fn passed_bytes_wait_for_what_was_redirected_before_them() {
        let mut ledger = Ledger::new(10, 101);
        let now = book(5, 1000);
        assert_eq!(ledger.step(&now), Step::Read(5));
        ledger.was_read(5);
        assert_eq!(ledger.step(&now), Step::AskSent);
        assert!(!ledger.sent(101 + 999, &now));
        assert_eq!(ledger.step(&now), Step::AskSent);
        assert!(ledger.sent(101 + 1000, &now));
        assert_eq!(ledger.step(&now), Step::Write(0));
        ledger.was_written(3);
        assert_eq!(ledger.step(&now), Step::Write(3));
        ledger.was_written(2);
        assert_eq!(ledger.step(&now), Step::Publish);
        assert_eq!(ledger.publish(), (5, 106));
        assert_eq!(ledger.step(&now), Step::Rest);
    }

    #[test]
    fn an_event_that_comes_before_its_bytes_is_no_end() {
        let mut ledger = Ledger::new(0, 0);
        ledger.saw_fin();
        // The FIN is seen, 7 bytes and the FIN were received, the verdict has not run yet.
        assert_eq!(ledger.step(&book(0, 0)), Step::AskReceived);
        assert_eq!(ledger.received(8, &book(0, 0)), Ok(false));
        assert_eq!(ledger.received(8, &book(0, 7)), Ok(true));
        assert_eq!(ledger.step(&book(0, 7)), Step::AskSent);
        assert!(ledger.sent(7, &book(0, 7)));
        assert_eq!(ledger.step(&book(0, 7)), Step::Shutdown);
        ledger.was_shut();
        assert_eq!(ledger.step(&book(0, 7)), Step::Rest);
    }

    #[test]
    fn books_with_more_than_was_received_do_not_balance() {
        let mut ledger = Ledger::new(1, 0);
        ledger.saw_fin();
        assert_eq!(ledger.received(8, &book(0, 7)), Err(Imbalance { booked: 9, counted: 8 }));
    }

    #[test]
    fn a_way_that_is_cut_short_may_lack_bytes_and_have_none_too_many() {
        let mut ledger = Ledger::new(10, 101);
        let now = book(5, 1000);
        for received in [1015, 2000] {
            assert_eq!(ledger.audit_taken(received, &now), Ok(()));
        }
        let missing = Imbalance { booked: 1015, counted: 1014 };
        assert_eq!(ledger.audit_taken(1014, &now), Err(missing));
        ledger.was_read(5);
        ledger.was_written(3);
        assert_eq!(ledger.audit_taken(1015, &now), Ok(()));
        for sent in [0, 1000, 1104] {
            assert_eq!(ledger.audit_given(sent, &now), Ok(()));
        }
        let stray = Imbalance { booked: 1104, counted: 1105 };
        assert_eq!(ledger.audit_given(1105, &now), Err(stray));
        ledger.was_shut();
        assert_eq!(ledger.audit_given(1105, &now), Ok(()), "the FIN");
    }

    #[test]
    fn a_way_that_has_left_the_kernel_balances_exactly() {
        let mut ledger = Ledger::new(0, 1);
        let now = book(5, 1000);
        ledger.was_read(5);
        ledger.was_written(5);
        ledger.publish();
        assert_eq!(ledger.audit_left(1006, &now), Ok(()));
        for sent in [1005, 1007] {
            let wrong = Imbalance { booked: 1006, counted: sent };
            assert_eq!(ledger.audit_left(sent, &now), Err(wrong));
        }
    }

    #[test]
    fn a_source_outside_the_map_is_read_to_its_end() {
        let mut ledger = Ledger::new(0, 0);
        ledger.read_plainly();
        let nothing = book(0, 0);
        assert_eq!(ledger.step(&nothing), Step::Read(u64::MAX));
        ledger.was_read(4);
        assert_eq!(ledger.step(&nothing), Step::AskSent);
        assert!(ledger.sent(0, &nothing));
        assert_eq!(ledger.step(&nothing), Step::Write(0));
        ledger.was_written(4);
        assert_eq!(ledger.step(&nothing), Step::Publish);
        ledger.publish();
        assert_eq!(ledger.step(&nothing), Step::Read(u64::MAX));
        ledger.saw_plain_end();
        assert_eq!(ledger.step(&nothing), Step::AskSent);
        assert!(ledger.sent(4, &nothing));
        assert_eq!(ledger.step(&nothing), Step::Shutdown);
        ledger.was_shut();
        assert_eq!(ledger.audit(5, &nothing), Ok(()));
    }

    #[test]
    fn passed_bytes_are_read_before_the_end_is_passed_on() {
        let mut ledger = Ledger::new(0, 0);
        ledger.saw_fin();
        assert_eq!(ledger.step(&book(3, 0)), Step::Read(3));
    }
}
