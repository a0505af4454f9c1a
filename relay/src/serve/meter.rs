//! Bounds what requests cost while they come in: memory of all together, and the time that one may take.
//!
//! A message is kept until it is whole. So whoever may send large ones could fill the memory with beginnings: each large
//! one takes its declared size from a budget that all streams share, before it is read.

use bytes::Bytes;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

/// What is smaller costs nothing: flow control bounds it.
const SMALL: u32 = 64 << 10;
/// The budget is counted in units of so many bytes.
const UNIT: u32 = 1 << 10;
/// A message that has begun must be whole within this time.
const WHOLE: Duration = Duration::from_secs(30);
/// Before a gRPC message: a flag, and its length.
const PREFIX: usize = 5;

/// A budget of so many bytes for messages that are coming in.
pub fn budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / UNIT as usize).clamp(1, Semaphore::MAX_PERMITS)))
}

/// The body of a request, metered.
pub struct Metered<B> {
    inner: B,
    budget: Arc<Semaphore>,
    /// The largest message: what is larger is refused by the decoder, and so costs nothing here.
    most: usize,
    prefix: [u8; PREFIX],
    have: usize,
    left: usize,
    held: Option<OwnedSemaphorePermit>,
    late: Option<Pin<Box<Sleep>>>,
}

impl<B> Metered<B> {
    /// Meters a body.
    pub fn new(inner: B, budget: Arc<Semaphore>, most: usize) -> Self {
        Self { inner, budget, most, prefix: [0; PREFIX], have: 0, left: 0, held: None, late: None }
    }

    /// Follows the framing of messages.
    fn count(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.left == 0 {
                let missing = data.iter().take(PREFIX - self.have);
                for (slot, byte) in self.prefix.iter_mut().skip(self.have).zip(missing) {
                    *slot = *byte;
                }
                let read = data.len().min(PREFIX - self.have);
                self.have += read;
                data = data.get(read..).unwrap_or_default();
                if self.have < PREFIX {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.begin(u32::from_be_bytes(length))?;
            }
            let read = data.len().min(self.left);
            self.left -= read;
            data = data.get(read..).unwrap_or_default();
            if self.left == 0 {
                (self.have, self.held, self.late) = (0, None, None);
            }
        }
        let begun = self.have > 0 || self.left > 0;
        if begun && self.late.is_none() {
            self.late = Some(Box::pin(tokio::time::sleep(WHOLE)));
        }
        Ok(())
    }

    fn begin(&mut self, length: u32) -> Result<(), Status> {
        self.left = length as usize;
        if length > SMALL && self.left <= self.most {
            let units = length.div_ceil(UNIT);
            let permit = Arc::clone(&self.budget).try_acquire_many_owned(units);
            self.held =
                Some(permit.map_err(|_| Status::resource_exhausted("too many large requests at one time"))?);
        }
        Ok(())
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref()
                    && let Err(status) = self.count(data)
                {
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.late.as_mut().map(|late| late.as_mut().poll(context)) {
                Some(Poll::Ready(())) => {
                    Poll::Ready(Some(Err(Status::deadline_exceeded("a request was begun and not finished"))))
                }
                _ => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::poll_fn;

    /// Pieces, and then silence.
    struct Pieces(VecDeque<Vec<u8>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                None => Poll::Pending,
            }
        }
    }

    fn message(length: u32, sent: usize) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; sent]].concat()
    }

    fn metered(budget: &Arc<Semaphore>, pieces: Vec<Vec<u8>>) -> Metered<Pieces> {
        Metered::new(Pieces(pieces.into()), Arc::clone(budget), 1 << 20)
    }

    async fn next(body: &mut Metered<Pieces>) -> Result<usize, tonic::Code> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.unwrap();
        frame.map(|frame| frame.into_data().unwrap().len()).map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn large_messages_share_a_budget_and_give_it_back() {
        let budget = budget(300 << 10);
        let large = 200 << 10;
        let mut first = metered(&budget, vec![message(large, 10), vec![7; large as usize - 10]]);
        let mut second = metered(&budget, vec![message(large, 10)]);
        assert!(next(&mut first).await.is_ok());
        assert_eq!(next(&mut second).await, Err(tonic::Code::ResourceExhausted));
        assert!(next(&mut first).await.is_ok());
        let mut third = metered(&budget, vec![message(large, 10)]);
        assert!(next(&mut third).await.is_ok(), "the first one is whole");
        drop(third);
        assert_eq!(budget.available_permits(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn framing_is_followed_however_it_is_cut() {
        let budget = budget(100 << 10);
        let whole = [message(3, 3), message(0, 0), message(70 << 10, 70 << 10), message(1, 1)].concat();
        for size in [1, 2, 5, 7, 1000, whole.len()] {
            let mut body = metered(&budget, whole.chunks(size).map(<[u8]>::to_vec).collect());
            for _ in 0..whole.len().div_ceil(size) {
                next(&mut body).await.unwrap();
            }
            assert!(body.late.is_none() && body.held.is_none(), "{size}");
            assert_eq!(budget.available_permits(), 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_ends_ends_the_stream() {
        let budget = budget(1 << 20);
        for begun in [vec![0], message(100, 99), message(0, 0)] {
            let waits = begun.len() != PREFIX;
            let mut body = metered(&budget, vec![begun]);
            next(&mut body).await.unwrap();
            let end = tokio::time::timeout(WHOLE * 2, next(&mut body)).await;
            assert_eq!(end.is_ok(), waits, "what is whole may be followed by silence");
            assert!(end.is_err() || end == Ok(Err(tonic::Code::DeadlineExceeded)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_decoder_refuses_takes_nothing() {
        let budget = budget(1 << 10);
        let mut body = metered(&budget, vec![message(u32::MAX, 10)]);
        assert!(next(&mut body).await.is_ok());
        assert_eq!(budget.available_permits(), 1);
    }
}
