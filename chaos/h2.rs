//! Just enough HTTP/2 to read a POST whole and refuse it: REFUSED_STREAM tells a client that nothing was done with it, and
//! default clients then send it again. Each reception is told, so that whoever counts sees what a provider would have.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const REFUSED_STREAM: u32 = 7;

/// Reads stream after stream to its end and refuses it, until the client goes away.
pub async fn refuse_every_post(
    mut client: TcpStream,
    mut read: Vec<u8>,
    mut note: impl FnMut(&str),
) -> Result<()> {
    while read.len() < PREFACE.len() {
        if client.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    if !read.starts_with(PREFACE) {
        bail!("not the preface of HTTP/2");
    }
    read.drain(..PREFACE.len());
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        while read.len() < 9 || read.len() < 9 + length(&read) {
            if client.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let (kind, flags) = (read[3], read[4]);
        let stream = u32::from_be_bytes([read[5] & 0x7f, read[6], read[7], read[8]]);
        let end = 9 + length(&read);
        let payload = read[9..end].to_vec();
        read.drain(..end);
        match kind {
            SETTINGS if flags & ACK == 0 => client.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => client.write_all(&frame(PING, ACK, 0, &payload)).await?,
            // The header block stays packed: that a whole request came is all that counts here.
            HEADERS | DATA if flags & END_STREAM != 0 => {
                note("over HTTP/2");
                client.write_all(&frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes())).await?;
            }
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
