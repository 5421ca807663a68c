//! The two threads with all clients and all servers on them.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::SockRef;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::LocalSet,
};
use tokio_util::task::TaskTracker;

use crate::{
    board::{Board, Flow, Outcome},
    peer,
    random::{HEAD, Pattern},
    script::Peer,
};

/// What the clients need to know.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// The daemon's listeners: the one that sniffs much, the one that sniffs little.
    pub(crate) listeners: [SocketAddr; 2],
    /// The first two bytes of the clients' addresses; the rest is the flow's number.
    pub(crate) network: [u8; 2],
    /// Flows at once.
    pub(crate) concurrency: usize,
    /// Begin no flow after this.
    pub(crate) until: Option<Instant>,
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// Plays the clients' ends of all flows; returns how many were begun.
pub(crate) fn run_clients(board: &Arc<Board>, clients: &Clients) -> Result<u64> {
    let local = LocalSet::new();
    let places = Arc::new(Semaphore::new(clients.concurrency));
    local.block_on(&runtime()?, async {
        let tasks = TaskTracker::new();
        let mut begun = 0;
        for index in 0..board.flows.len() {
            let place = Arc::clone(&places).acquire_owned().await.context("never closed")?;
            if clients.until.is_some_and(|until| Instant::now() > until) {
                break;
            }
            begun += 1;
            let (board, clients) = (Arc::clone(board), clients.clone());
            tasks.spawn_local(async move {
                let _place = place;
                let flow = &board.flows[index];
                let start = Instant::now();
                let outcome = client(flow, &clients, &board).await;
                flow.took.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                flow.record(Peer::Client, outcome);
            });
        }
        tasks.close();
        tasks.wait().await;
        Ok(begun)
    })
}

async fn client(flow: &Flow, clients: &Clients, board: &Board) -> Outcome {
    let connected = tokio::time::timeout(board.deadline, connect(flow, clients)).await;
    match connected {
        Ok(Ok(stream)) => peer::play(stream, flow, Peer::Client, 0, board).await,
        Ok(Err(error)) => {
            Outcome { error: Some(format!("connect: {error}")), ..Outcome::default() }
        }
        Err(_) => Outcome { hung: true, ..Outcome::default() },
    }
}

async fn connect(flow: &Flow, clients: &Clients) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    peer::size(SockRef::from(&socket), flow.script.client);
    // An address of its own: a port that is used again would mix up lines of the access log.
    let [_, _, high, low] = (flow.number as u32 + 1).to_be_bytes();
    let [first, second] = clients.network;
    let own = Ipv4Addr::new(first, second, high, low);
    socket.bind(SocketAddrV4::new(own, 0).into())?;
    flow.set_address(socket.local_addr()?);
    socket.connect(clients.listeners[usize::from(flow.script.short_sniff)]).await
}

/// Plays the servers' ends until `stop` is set and all are over. Sends its address when it listens.
pub(crate) fn run_servers(
    board: &Arc<Board>,
    address: Ipv4Addr,
    listening: &mpsc::Sender<SocketAddr>,
    stop: &AtomicBool,
) -> Result<()> {
    let local = LocalSet::new();
    local.block_on(&runtime()?, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(address, 0).into()).context("binding the server")?;
        let listener = socket.listen(4096).context("listening")?;
        let _ = listening.send(listener.local_addr()?);
        let tasks = TaskTracker::new();
        while let Some(stream) = accept(&listener, stop).await? {
            let board = Arc::clone(board);
            tasks.spawn_local(async move { server(stream, &board).await });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}

/// The next connection; `None` when told to stop.
async fn accept(listener: &TcpListener, stop: &AtomicBool) -> Result<Option<TcpStream>> {
    loop {
        tokio::select! {
            accepted = listener.accept() => return Ok(Some(accepted.context("accepting")?.0)),
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
            }
        }
    }
}

async fn server(mut stream: TcpStream, board: &Board) {
    let mut head = [0; HEAD];
    let read = tokio::time::timeout(board.deadline, stream.read_exact(&mut head)).await;
    let flow = match read {
        // Reset before it said who it is; if it should not have been, the client's end knows.
        Ok(Err(_)) => return,
        Ok(Ok(_)) => Pattern::flow(&head).and_then(|number| board.flows.get(number as usize)),
        Err(_) => None,
    };
    let Some(flow) = flow else {
        board.strangers.fetch_add(1, Ordering::Relaxed);
        return;
    };
    flow.record(Peer::Server, Outcome { received: HEAD as u64, ..Outcome::default() });
    peer::size(SockRef::from(&stream), flow.script.server);
    let outcome = peer::play(stream, flow, Peer::Server, HEAD as u64, board).await;
    flow.record(Peer::Server, outcome);
}
