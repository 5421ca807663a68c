//! What a daemon and its successor say to each other, and the successor's side of it.
//!
//! The successor asks for the listening sockets, takes those that its own rules have, and says when
//! it serves. Each side believes the other nothing about a socket that the kernel can tell. Messages
//! are JSON, so that versions of mux that know more keys than others understand each other.

use std::{
    env, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use socket2::{Socket, Type};
use tracing::{info, warn};

use super::{
    channel::{Channel, MAX_BYTES, MAX_DESCRIPTORS},
    orders::{Action, Desk},
};
use crate::{
    listener::{SocketFile, Spares},
    rules::config::ListenAddress,
    sys,
};

/// The environment variable with the handover channel's number.
pub(super) const VARIABLE: &str = "MUX_HANDOVER";
/// How long the predecessor may take for each message.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most sockets that are taken, of all listeners together.
const MAX_SOCKETS: usize = 65_536;
/// Longest reason of a failure.
const MAX_REASON: usize = MAX_BYTES / 4;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Message {
    /// Successor: which sockets are there?
    Sockets,
    /// Daemon: these sockets of a listener, as descriptors.
    Listener {
        /// As the rules have it.
        address: String,
        /// The Unix socket's file, as [`SocketFile::to_argument`] has it.
        file: Option<String>,
    },
    /// Daemon: those were all.
    End,
    /// Successor: it accepts, on sockets of these listeners among others.
    Serving {
        /// As in [`Message::Listener`].
        taken: Vec<String>,
    },
    /// Successor: it cannot, and ends.
    Failed {
        /// Why.
        reason: String,
    },
    /// Daemon: do not serve after all.
    Cancel,
    /// Successor: it needs its predecessor no more, whatever becomes of it.
    Goodbye,
}

/// A listener's sockets, on their way from one process to another.
#[derive(Debug)]
pub(super) struct Offer {
    /// As the rules have it.
    pub(super) address: String,
    pub(super) file: Option<SocketFile>,
    pub(super) sockets: Vec<Socket>,
}

/// What a successor can have, and what becomes of it here.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    /// As in [`Offer`].
    pub(crate) address: String,
    pub(crate) file: Option<SocketFile>,
    pub(crate) spares: Arc<Spares>,
}

impl Offered {
    /// Whether the sockets are the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spares, &other.spares)
    }

    /// With handles of its own.
    pub(super) fn offer(&self) -> io::Result<Offer> {
        let Self { address, file, spares } = self;
        let (address, file) = (address.clone(), file.clone());
        Ok(Offer { address, file, sockets: spares.try_clone()? })
    }
}

impl Message {
    pub(super) fn send(&self, channel: &Channel) -> io::Result<()> {
        channel.send(&serde_json::to_vec(self)?, &[])
    }

    /// The next one with its descriptors; `None`: the other end is closed.
    pub(super) fn receive(channel: &Channel) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let Some(received) = channel.receive()? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&received.bytes)?, received.descriptors)))
    }
}

impl Offer {
    /// Sends it, in as many messages as it takes.
    pub(super) fn send(&self, channel: &Channel) -> io::Result<()> {
        let file = self.file.as_ref().map(SocketFile::to_argument);
        let message = Message::Listener {
            address: self.address.clone(),
            file: file.and_then(|file| file.into_string().ok()),
        };
        let bytes = serde_json::to_vec(&message)?;
        for sockets in self.sockets.chunks(MAX_DESCRIPTORS) {
            let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            channel.send(&bytes, &descriptors)?;
        }
        Ok(())
    }
}

/// The number of a descriptor, for [`VARIABLE`].
pub(super) fn number(descriptor: &OwnedFd) -> String {
    descriptor.as_raw_fd().to_string()
}

/// Why a start failed, short enough for a message.
fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].trim_end().to_owned()
}

/// How asking for sockets ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    All,
    Cancelled,
}

/// The daemon that this process is to succeed.
#[derive(Clone, Debug)]
pub struct Predecessor(Arc<Channel>);

impl Predecessor {
    /// The one that had this process started; `None`: nobody's successor. Forgets the environment
    /// variable. Call it once, at the start of the process, while it has one thread.
    ///
    /// # Errors
    /// The variable is there, and what it names is not what it should be.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(text) = env::var_os(VARIABLE) else { return Ok(None) };
        sys::forget_variables(&[VARIABLE]);
        let number = text.to_str().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let channel = Channel::new(sys::inherited(number)?)?;
        channel.set_timeout(Some(PATIENCE))?;
        Ok(Some(Self(Arc::new(channel))))
    }

    /// Says that this process cannot serve, and why.
    pub fn fail(&self, reason: &str) {
        // Nobody there: it is on standard error, too.
        let _ = Message::Failed { reason: shortened(reason) }.send(&self.0);
    }

    /// Its listening sockets; none if it is gone, of which a killed one leaves some. `None`: it goes
    /// on by itself.
    pub(super) fn offers(&self) -> Option<Vec<Offer>> {
        let mut offers = Vec::new();
        match self.gather(&mut offers) {
            Ok(Asked::All) => Some(offers),
            Ok(Asked::Cancelled) => None,
            Err(error) => {
                warn!("the daemon before this one hands over no more: {error}");
                Some(offers)
            }
        }
    }

    fn gather(&self, offers: &mut Vec<Offer>) -> io::Result<Asked> {
        let mut count = 0;
        if let Err(error) = Message::Sockets.send(&self.0) {
            // It is gone; what it said before is there.
            info!("the daemon before this one cannot be asked: {error}");
        }
        loop {
            let Some((message, descriptors)) = Message::receive(&self.0)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match message {
                Message::Listener { address, file } => {
                    count += descriptors.len();
                    if count > MAX_SOCKETS {
                        return Err(io::Error::other("too many sockets"));
                    }
                    let sockets = descriptors.into_iter().map(Socket::from).collect();
                    add(
                        offers,
                        Offer {
                            address,
                            file: file.and_then(|file| SocketFile::from_argument(file.as_ref())),
                            sockets,
                        },
                    );
                }
                Message::End => return Ok(Asked::All),
                Message::Cancel => return Ok(Asked::Cancelled),
                Message::Sockets
                | Message::Serving { .. }
                | Message::Failed { .. }
                | Message::Goodbye => {}
            }
        }
    }

    /// Whether it has died.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    /// Says that this process accepts, on these listeners of its predecessor's.
    pub(super) fn serving(&self, taken: Vec<String>) {
        if let Err(error) = (Message::Serving { taken }).send(&self.0) {
            info!("the daemon before this one is gone already: {error}");
        }
    }

    /// Says that the predecessor need not wait to see whether this process lives.
    pub(super) fn goodbye(&self) {
        // It may be gone.
        let _ = Message::Goodbye.send(&self.0);
    }

    /// Has a thread wait for a change of its mind, after which this process drains.
    pub(super) fn listen(&self, desk: Desk) -> io::Result<()> {
        let channel = Arc::clone(&self.0);
        channel.set_timeout(None)?;
        thread::Builder::new().name("mux-predecessor".into()).spawn(move || {
            while let Ok(Some((message, _))) = Message::receive(&channel) {
                if message == Message::Cancel {
                    desk.order(Action::Drain);
                }
            }
        })?;
        Ok(())
    }
}

/// Adds to the listener's earlier ones: an offer can take several messages.
fn add(offers: &mut Vec<Offer>, new: Offer) {
    // A full message may have a continuation. Port 0 is nobody's alone, but whose sockets are on
    // one address belong together.
    let last = offers
        .last_mut()
        .filter(|last| last.address == new.address && last.sockets.len() % MAX_DESCRIPTORS == 0);
    match last {
        Some(last) if same_place(&last.sockets, &new.sockets) => last.sockets.extend(new.sockets),
        Some(_) | None => offers.push(new),
    }
}

fn same_place(one: &[Socket], other: &[Socket]) -> bool {
    let of = |sockets: &[Socket]| sockets.first()?.local_addr().ok()?.as_socket();
    of(one) == of(other)
}

/// Takes the offer of this name, with those of its sockets that listen at the address, and the file
/// that goes with it; the rest is closed.
pub(super) fn take(offers: &mut Vec<Offer>, name: &str, address: &ListenAddress) -> Option<Offer> {
    let index = offers.iter().position(|offer| offer.address == name)?;
    let mut offer = offers.remove(index);
    let before = offer.sockets.len();
    offer.sockets.retain(|socket| is_listening_at(socket, address).unwrap_or(false));
    if offer.sockets.len() < before {
        warn!(address = name, "sockets that do not listen there were handed over; not used");
    }
    // It will be removed with our privileges: nothing else that the predecessor may name.
    offer.file = offer.file.filter(|file| *address == ListenAddress::Unix(file.path().into()));
    (!offer.sockets.is_empty()).then_some(offer)
}

fn is_listening_at(socket: &Socket, address: &ListenAddress) -> io::Result<bool> {
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Ok(false);
    }
    let local = socket.local_addr()?;
    Ok(match address {
        ListenAddress::Tcp(wanted) => local.as_socket().is_some_and(|local| {
            local.ip() == wanted.ip() && (wanted.port() == 0 || local.port() == wanted.port())
        }),
        ListenAddress::Unix(path) => local.as_pathname() == Some(path),
        ListenAddress::Systemd(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::listener::describe;

    fn listening() -> (Socket, ListenAddress) {
        let socket = Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, ListenAddress::Tcp(address))
    }

    #[test]
    fn messages_read_as_they_are_written() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::new(other).unwrap();
        let all = [
            Message::Sockets,
            Message::Listener { address: "127.0.0.1:0".into(), file: Some("1:2:/x".into()) },
            Message::End,
            Message::Serving { taken: vec!["unix:/x".into()] },
            Message::Failed { reason: "a\nb".into() },
            Message::Cancel,
            Message::Goodbye,
        ];
        for message in &all {
            message.send(&one).unwrap();
            assert_eq!(&Message::receive(&other).unwrap().unwrap().0, message);
        }
        one.send(b"{\"kind\":\"sockets\",\"later\":1}", &[]).unwrap();
        assert_eq!(Message::receive(&other).unwrap().unwrap().0, Message::Sockets);
        one.send(b"nonsense", &[]).unwrap();
        assert!(Message::receive(&other).is_err());
        drop(one);
        assert!(Message::receive(&other).unwrap().is_none());
    }

    #[test]
    fn many_sockets_arrive_as_one_listeners() {
        let (one, other) = Channel::pair().unwrap();
        let (socket, address) = listening();
        let count = 2 * MAX_DESCRIPTORS + 1;
        let sockets = (0..count).map(|_| socket.try_clone().unwrap()).collect();
        let offer = Offer { address: describe(&address), file: None, sockets };
        let daemon = thread::spawn(move || {
            assert_eq!(Message::receive(&one).unwrap().unwrap().0, Message::Sockets);
            offer.send(&one).unwrap();
            Message::End.send(&one).unwrap();
        });
        let predecessor = Predecessor(Arc::new(Channel::new(other).unwrap()));
        let mut offers = predecessor.offers().unwrap();
        daemon.join().unwrap();
        assert_eq!(offers.len(), 1);
        assert_eq!(take(&mut offers, &describe(&address), &address).unwrap().sockets.len(), count);
        assert!(take(&mut offers, &describe(&address), &address).is_none());
    }

    #[test]
    fn a_socket_that_listens_elsewhere_is_not_taken() {
        let (right, address) = listening();
        let (wrong, _) = listening();
        let deaf = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        let sockets = vec![wrong, deaf, right];
        let mut offers = vec![Offer { address: describe(&address), file: None, sockets }];
        assert_eq!(take(&mut offers, &describe(&address), &address).unwrap().sockets.len(), 1);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = "ä".repeat(MAX_REASON);
        let short = shortened(&text);
        assert!(short.len() <= MAX_REASON && text.starts_with(&short));
    }

    #[test]
    fn what_a_killed_predecessor_has_sent_is_used() {
        let (one, other) = Channel::pair().unwrap();
        let (socket, address) = listening();
        Offer { address: describe(&address), file: None, sockets: vec![socket] }
            .send(&one)
            .unwrap();
        drop(one);
        let predecessor = Predecessor(Arc::new(Channel::new(other).unwrap()));
        // It cannot be asked any more, but what it said is there.
        let mut offers = predecessor.offers().unwrap();
        assert_eq!(offers.len(), 1);
        assert_eq!(take(&mut offers, &describe(&address), &address).unwrap().sockets.len(), 1);
    }

    /// It read nothing of what it was asked: what it says is there all the same, and a second daemon
    /// does not come about beside it.
    #[test]
    fn a_predecessor_that_changed_its_mind_is_not_taken_for_a_dead_one() {
        for ended in [false, true] {
            let (one, other) = Channel::pair().unwrap();
            let predecessor = Predecessor(Arc::new(Channel::new(other).unwrap()));
            Message::Sockets.send(&predecessor.0).unwrap();
            Message::Cancel.send(&one).unwrap();
            if ended {
                drop(one);
            }
            assert!(predecessor.offers().is_none());
        }
    }
}
