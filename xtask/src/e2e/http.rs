//! As much of HTTP/1.1 as a scrape needs, and of the exposition format as a check needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines, as sent.
    pub head: String,
    /// The body.
    pub body: String,
}

/// GET of a path at `ADDRESS:PORT`.
pub fn get(at: &str, path: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(at).with_context(|| format!("connecting to {at}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("reading {path} from {at}"))?;
    let text = String::from_utf8(bytes).context("the answer is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no end of head")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status code")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The sum of a metric over all its labels; nothing when the page does not have it.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    let mut sum = None;
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if rest.starts_with([' ', '{']) {
            let value: f64 = rest.rsplit(' ').next()?.parse().ok()?;
            sum = Some(sum.unwrap_or(0.0) + value);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_only() {
        let page = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\na_more 100\nb 7\n";
        assert_eq!(metric(page, "a"), Some(5.0));
        assert_eq!(metric(page, "b"), Some(7.0));
        assert_eq!(metric(page, "c"), None);
    }
}
