//! Keeping a lease alive.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Client, Error};
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::runtime::Runtime;

/// A third of a lease's time is left for each of three attempts.
const BEATS: u64 = 3;

/// The shortest pause between two renewals.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Renews one lease for as long as it is asked for [`next`](Self::next).
pub struct KeepAlive<R: Runtime> {
    client: Client<R>,
    id: i64,
    stream: Option<(mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>)>,
    pause: Option<Duration>,
}

impl<R: Runtime> Client<R> {
    /// Begins to keep a lease alive. Nothing is sent before the first `next`.
    #[must_use]
    pub fn keep_alive(&self, id: i64) -> KeepAlive<R> {
        KeepAlive { client: self.clone(), id, stream: None, pause: None }
    }
}

impl<R: Runtime> KeepAlive<R> {
    /// Waits until a renewal is due, renews, and returns the answer; its TTL is not above zero when the
    /// lease is gone. A connection that breaks is replaced: to renew twice does no harm.
    ///
    /// # Errors
    /// When the server refuses for good.
    pub async fn next(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        if let Some(pause) = self.pause {
            self.client.runtime().sleep(pause).await;
        }
        loop {
            match self.renew().await {
                Ok(answer) => {
                    let ttl = u64::try_from(answer.ttl).unwrap_or(0);
                    let third = Duration::from_secs(ttl) / u32::try_from(BEATS).unwrap_or(1);
                    self.pause = Some(third.max(PAUSE_MIN));
                    return Ok(answer);
                }
                Err(error) if error.code() == Code::Unavailable => {
                    self.stream = None;
                    self.client.move_on();
                    self.client.runtime().sleep(PAUSE_MIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        if self.stream.is_none() {
            let channel = self.client.connected().await;
            let (sender, receiver) = mpsc::channel(1);
            // The first request goes along: a server may answer a stream only after it.
            let _ = sender.send(LeaseKeepAliveRequest { id: self.id }).await;
            let answers = LeaseClient::new(channel)
                .lease_keep_alive(ReceiverStream::new(receiver))
                .await
                .map_err(Error::of)?;
            self.stream = Some((sender, answers.into_inner()));
        } else if let Some((sender, _)) = &self.stream
            && sender.send(LeaseKeepAliveRequest { id: self.id }).await.is_err()
        {
            return Err(Error::Status(tonic::Status::unavailable("the stream has ended")));
        }
        let (_, answers) = self.stream.as_mut().expect("made above");
        match answers.message().await.map_err(Error::of)? {
            Some(answer) => Ok(answer),
            None => Err(Error::Status(tonic::Status::unavailable("the stream has ended"))),
        }
    }
}
