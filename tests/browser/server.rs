//! The page's folder over HTTP, and what the page sends back.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Most bytes of a result.
const LONGEST: usize = 64 << 20;

/// A server on a free port of this machine, until the test ends.
pub(crate) struct Server {
    port: u16,
    results: Receiver<String>,
}

/// What is served: the repository's `shaders` and `assets`, and files that only a test has.
struct Site {
    root: PathBuf,
    extra: HashMap<String, Vec<u8>>,
    results: Sender<String>,
}

impl Server {
    /// Serves the repository and `extra`, whose names begin with a slash.
    pub(crate) fn start(extra: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("bound above").port();
        let (sender, results) = channel();
        let site = Arc::new(Site { root: env!("CARGO_MANIFEST_DIR").into(), extra, results: sender });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = site.clone();
                // A browser may hang up at any time.
                thread::spawn(move || site.answer(&stream).ok());
            }
        });
        Self { port, results }
    }

    /// Address of the page with this query.
    pub(crate) fn page(&self, query: &str) -> String {
        format!("http://127.0.0.1:{}/shaders/browser/?{query}", self.port)
    }

    /// What the page sends to `/done`.
    pub(crate) fn results(&self) -> &Receiver<String> {
        &self.results
    }
}

impl Site {
    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let (status, kind, body) = match method {
            "GET" => self.file(path),
            "POST" if path == "/done" && length <= LONGEST => {
                let mut body = vec![0; length];
                reader.read_exact(&mut body)?;
                let _ = self.results.send(String::from_utf8_lossy(&body).into_owned());
                ("200 OK", "text/plain", Vec::new())
            }
            _ => ("405 Method Not Allowed", "text/plain", Vec::new()),
        };
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)
    }

    fn file(&self, path: &str) -> (&'static str, &'static str, Vec<u8>) {
        let missing = ("404 Not Found", "text/plain", Vec::new());
        let path = if path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
        if let Some(body) = self.extra.get(&path) {
            return ("200 OK", content_type(&path), body.clone());
        }
        let relative = Path::new(path.trim_start_matches('/'));
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
        let served = relative.starts_with("shaders") || relative.starts_with("assets");
        if !(plain && served) {
            return missing;
        }
        match std::fs::read(self.root.join(relative)) {
            Ok(body) => ("200 OK", content_type(&path), body),
            Err(_) => missing,
        }
    }
}

/// Browsers refuse scripts and styles of another type.
fn content_type(path: &str) -> &'static str {
    match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
