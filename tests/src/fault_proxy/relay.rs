//! One connection of a client: its requests one after the other, each to the server over a connection of its own, with the faults of the
//! plan.

use std::{io, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Shared,
    fault::Fault,
    head::{self, Head},
    ledger::Line,
};
use crate::fake::Request;

/// How long the server may take to notice that a request has ended early, and a client to take what was sent.
const PATIENCE: Duration = Duration::from_secs(2);

type Client = BufReader<TcpStream>;

/// Whether there is another request on the connection.
enum Next {
    Request,
    End,
}

pub(super) async fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(text) = head::read(&mut client).await? {
        let asked = shared.ledger.count(Request::parse(text));
        let is_calm = shared.is_calm.load(Ordering::SeqCst);
        let fault = if is_calm { None } else { (shared.plan)(&asked) };
        let line = shared.ledger.enter(&asked.request, fault.as_ref());
        let exchange = Exchange { shared, line, fault };
        match exchange.run(&mut client, &asked.request).await? {
            Next::Request => {}
            Next::End => break,
        }
    }
    client.shutdown().await
}

/// One request and its answer.
struct Exchange<'a> {
    shared: &'a Shared,
    line: Line,
    fault: Option<Fault>,
}

impl Exchange<'_> {
    fn happened(&self) {
        self.shared.ledger.change(self.line, |passed| passed.happened = true);
    }

    async fn run(&self, client: &mut Client, request: &Request) -> io::Result<Next> {
        let mut head = Head::parse(&request.head);
        let len = head.content_length().unwrap_or(0);
        if let Some(Fault::Answer(reply)) = &self.fault {
            self.happened();
            self.shared.ledger.change(self.line, |passed| passed.status = reply.status());
            // What is not read would reset the connection before the answer is.
            self.take(client, len).await?;
            reply.send(client).await?;
            return Ok(Next::End);
        }
        if matches!(self.fault, Some(Fault::IgnoreRange)) && head.header("range").is_some() {
            self.happened();
            head.set("range", None);
        }
        head.set("connection", Some("close"));
        let mut server = TcpStream::connect(&self.shared.upstream).await?;
        server.set_nodelay(true)?;
        server.write_all(&head.bytes()).await?;
        if let Some(Fault::ResetRequest(at)) = self.fault
            && at < len
        {
            self.happened();
            self.pass(client, &mut server, at).await?;
            server.shutdown().await?;
            // What the server has then is what it will say that it has.
            drop(timeout(PATIENCE, server.read_to_end(&mut Vec::new())).await);
            return reset(client);
        }
        let (answers, mut takes) = server.split();
        let mut answers = BufReader::new(answers);
        let mut is_sent = false;
        // A server may answer before it has read everything.
        let answer = tokio::select! {
            sent = self.pass(client, &mut takes, len) => {
                // It may take no more and have answered.
                is_sent = sent.is_ok();
                head::read(&mut answers).await?
            }
            answer = head::read(&mut answers) => answer?,
        };
        let Some(answer) = answer else { return Ok(Next::End) };
        if matches!(self.fault, Some(Fault::LoseAnswer)) {
            self.happened();
            return reset(client);
        }
        self.answer(client, request, &mut answers, Head::parse(&answer), is_sent).await
    }

    /// Takes a body from the client, for nobody.
    async fn take(&self, client: &mut Client, len: u64) -> io::Result<()> {
        self.pass(client, &mut tokio::io::sink(), len).await
    }

    /// Passes so many bytes of the client's on.
    async fn pass(
        &self,
        client: &mut Client,
        to: &mut (impl tokio::io::AsyncWrite + Unpin),
        len: u64,
    ) -> io::Result<()> {
        let (mut left, mut buffer) = (len, vec![0; 16 * 1024]);
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = client.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.shared.ledger.change(self.line, |passed| passed.taken += read as u64);
            to.write_all(&buffer[..read]).await?;
            left -= read as u64;
        }
        to.flush().await
    }

    /// Hands the answer to the client.
    async fn answer(
        &self,
        client: &mut Client,
        request: &Request,
        server: &mut (impl AsyncRead + Unpin),
        mut head: Head,
        is_sent: bool,
    ) -> io::Result<Next> {
        let has_body = request.method != "HEAD" && !matches!(head.status(), 100..=199 | 204 | 304);
        let announced = head.content_length();
        let len = if has_body { announced } else { Some(0) };
        let mut ends_early = None;
        match &self.fault {
            Some(Fault::Header(name, value)) => {
                self.happened();
                head.set(name, value.as_deref());
            }
            Some(Fault::Splice(splice)) => {
                if let Some(range) = head.header("content-range") {
                    self.happened();
                    let spoilt = splice.spoil(range);
                    head.set("Content-Range", spoilt.as_deref());
                }
            }
            Some(Fault::Shorten(by)) if let Some(len) = len.filter(|len| len >= by && *len > 0) => {
                self.happened();
                ends_early = Some(len - by);
                head.set("Content-Length", Some(&(len - by).to_string()));
            }
            Some(Fault::Lengthen(by)) if let Some(len) = len.filter(|len| *len > 0) => {
                head.set("Content-Length", Some(&(len + by).to_string()));
            }
            _ => {}
        }
        let may_go_on = len.is_some() && is_sent && ends_early.is_none();
        head.set("Connection", if may_go_on { None } else { Some("close") });
        self.shared.ledger.change(self.line, |passed| passed.status = Some(head.status()));
        client.write_all(&head.bytes()).await?;
        let body = Body { exchange: self, len: ends_early.or(len) };
        match body.pass(client, server).await? {
            Next::Request if may_go_on => Ok(Next::Request),
            _ => Ok(Next::End),
        }
    }
}

/// The body of an answer.
struct Body<'a> {
    exchange: &'a Exchange<'a>,
    /// `None` for what ends with the connection.
    len: Option<u64>,
}

impl Body<'_> {
    async fn write(&self, client: &mut Client, bytes: &[u8]) -> io::Result<()> {
        let Exchange { shared, line, .. } = self.exchange;
        // Counted first, so that who has received something finds it counted.
        shared.ledger.change(*line, |passed| passed.served += bytes.len() as u64);
        client.write_all(bytes).await
    }

    async fn pass(&self, client: &mut Client, server: &mut (impl AsyncRead + Unpin)) -> io::Result<Next> {
        let fault = &self.exchange.fault;
        let stop = match fault {
            Some(Fault::ResetAnswer(at) | Fault::Stall(at) | Fault::Truncate(at)) => Some(*at),
            _ => None,
        };
        let (mut at, mut buffer) = (0_u64, vec![0; 16 * 1024]);
        loop {
            let end = [self.len, stop].into_iter().flatten().min().unwrap_or(u64::MAX);
            let mut most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if let Some(Fault::Drip(bytes, _)) = fault {
                most = most.min((*bytes).max(1));
            }
            if at == end && stop == Some(at) && self.len.is_none_or(|len| at < len) {
                return self.stop(client).await;
            }
            let read = if most == 0 { 0 } else { server.read(&mut buffer[..most]).await? };
            if read == 0 {
                break;
            }
            let piece = &mut buffer[..read];
            if let Some(Fault::Flip(place)) = fault
                && let Some(byte) =
                    place.checked_sub(at).and_then(|place| piece.get_mut(usize::try_from(place).ok()?))
            {
                self.exchange.happened();
                *byte ^= 1;
            }
            self.write(client, piece).await?;
            at += read as u64;
            if let Some(Fault::Drip(_, pause)) = fault
                && self.len.is_none_or(|len| at < len)
            {
                self.exchange.happened();
                client.flush().await?;
                sleep(*pause).await;
            }
        }
        if let Some(Fault::Lengthen(by)) = fault
            && at > 0
        {
            self.exchange.happened();
            self.write(client, &vec![b'!'; usize::try_from(*by).unwrap_or(0)]).await?;
        }
        client.flush().await?;
        // A server that broke off is passed on as one.
        Ok(if self.len.is_some_and(|len| at < len) { Next::End } else { Next::Request })
    }

    /// Does what is to be done in the middle of a body.
    async fn stop(&self, client: &mut Client) -> io::Result<Next> {
        self.exchange.happened();
        client.flush().await?;
        match self.exchange.fault {
            Some(Fault::Stall(_)) => std::future::pending().await,
            Some(Fault::ResetAnswer(_)) => {
                settle(client.get_ref()).await?;
                reset(client)
            }
            _ => Ok(Next::End),
        }
    }
}

/// Resets the connection when it is dropped.
fn reset(client: &Client) -> io::Result<Next> {
    client.get_ref().set_zero_linger()?;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Waits until the client's side has taken what was sent: a reset throws away what has not left, and a test that counts what the client
/// got of a connection could not tell.
async fn settle(client: &TcpStream) -> io::Result<()> {
    let (here, there) = (client.local_addr()?, client.peer_addr()?);
    let (here, there) = (format!(":{:04X} ", here.port()), format!(":{:04X} ", there.port()));
    let drained = async {
        loop {
            // Linux tells it there: `sl local_address rem_address st tx_queue:rx_queue …`.
            let Ok(table) = tokio::fs::read_to_string("/proc/net/tcp").await else {
                return sleep(Duration::from_millis(50)).await;
            };
            let is_waiting = |line: &&str| {
                let ends = line.find(&here).zip(line.find(&there));
                let queue = line.split_whitespace().nth(4).unwrap_or_default();
                ends.is_some_and(|(here, there)| here < there) && !queue.starts_with("00000000:")
            };
            if !table.lines().any(|line| is_waiting(&line)) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    drop(timeout(PATIENCE, drained).await);
    Ok(())
}
