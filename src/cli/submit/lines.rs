//! JSON lines → tasks, each checked as the router will check it.

use std::io::{self, BufRead, BufReader, Read};

use crate::codec::decode::RECORD_BYTES_MAX;
use crate::codec::headers::{CONTENT_TYPE, CONTENT_TYPE_JSON};
use crate::codec::{Codec, Header, OutputFormat, RawRecord, RegisteredSchemas};
use crate::model::Topic;
use crate::model::task::Task;

/// A line that is a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    pub key: String,
    /// The line without its end, byte by byte.
    pub json: Vec<u8>,
    pub line_bytes: u64,
}

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// From 1.
    pub line: u64,
    pub problem: String,
}

/// The lines of an input; empty ones are passed over.
pub struct Lines<Input> {
    input: BufReader<Input>,
    line: u64,
    /// JSON needs nothing registered, so this codec can always be made.
    codec: Option<Codec>,
}

impl<Input: Read> Lines<Input> {
    pub fn new(input: Input) -> Self {
        let codec = Codec::new(OutputFormat::Json, RegisteredSchemas::default()).ok();
        Lines { input: BufReader::new(input), line: 0, codec }
    }

    /// One line without its end, at most a byte longer than a record may be; `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<(Vec<u8>, u64)>> {
        let mut line = Vec::new();
        let most = RECORD_BYTES_MAX as u64 + 2;
        let mut read = self.input.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(None);
        }
        if read == most && !line.ends_with(b"\n") {
            // The rest of a line that is too long is passed over without being kept.
            read += skip_line(&mut self.input)?;
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        Ok(Some((line, read)))
    }

    fn judge(&self, json: Vec<u8>, line_bytes: u64) -> Result<Valid, String> {
        let Some(codec) = &self.codec else { return Err("no codec".to_owned()) };
        let record = RawRecord {
            topic: Topic::Tasks,
            partition: 0,
            offset: -1,
            timestamp_ms: -1,
            key: None,
            value: Some(&json),
            headers: &[Header { name: CONTENT_TYPE, value: Some(CONTENT_TYPE_JSON) }],
        };
        let task = codec.decode_task(&record).map_err(|error| error.to_string())?;
        Ok(Valid { key: key_of(&task), json, line_bytes })
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(buffer.len(), |end| end + 1);
        let over = end.is_some() || buffer.is_empty();
        input.consume(count);
        skipped += count as u64;
        if over {
            return Ok(skipped);
        }
    }
}

impl<Input: Read> Iterator for Lines<Input> {
    type Item = io::Result<Result<Valid, Invalid>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (json, line_bytes) = match self.read_line() {
                Ok(Some(read)) => read,
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            };
            self.line += 1;
            if json.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let line = self.line;
            let judged = self.judge(json, line_bytes);
            return Some(Ok(judged.map_err(|problem| Invalid { line, problem })));
        }
    }
}

/// What belongs together stays in order: the session, else the tenant, else the task alone.
fn key_of(task: &Task) -> String {
    match &task.session {
        Some(session) => session.clone(),
        None if task.tenant != "default" => task.tenant.clone(),
        None => task.task_id.clone(),
    }
}
