//! HTTP/1.1 as bytes: sends paths and headers that no well-behaved client would.

use crate::http::Answer;
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// No answer within this time is a lost request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one local port that keeps its connection as long as the server does.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Wire {
    /// A client; it connects with its first request.
    pub fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Sends a request without a body and reads its answer. Headers, `Host` among them, are sent as they are.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(String, String)]) -> Result<Answer> {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        if let Some(stream) = self.stream.take() {
            // A server may close an idle connection at any time; a new one decides.
            if let Ok(answer) = self.exchange(stream, method, &text) {
                return Ok(answer);
            }
        }
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        self.exchange(BufReader::new(stream), method, &text).with_context(|| format!("{method} {path}"))
    }

    fn exchange(&mut self, mut stream: BufReader<TcpStream>, method: &str, text: &str) -> Result<Answer> {
        stream.get_mut().write_all(text.as_bytes())?;
        let status = line(&mut stream)?;
        let status: u16 = status.split(' ').nth(1).context("no status line")?.parse()?;
        let mut headers = Vec::new();
        loop {
            let line = line(&mut stream)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: bytes::Bytes::new() };
        let length = answer.header("content-length").unwrap_or("0").parse()?;
        if method != "HEAD" {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            answer.body = body.into();
        }
        if answer.header("connection") != Some("close") && answer.header("transfer-encoding").is_none() {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("the connection was closed");
    }
    Ok(line.trim_end().to_owned())
}
