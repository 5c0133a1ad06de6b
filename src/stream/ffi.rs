//! The one file with `unsafe`: four calls of librdkafka that the rdkafka crate wraps too slowly, or
//! not at all.
//!
//! Why it is needed: the crate's `flush` and `commit_transaction` poll in slices of 100 ms, which
//! costs 100 ms for each transaction; its `poll` takes an event, an `Arc` and a list for each
//! message; its producer takes the topic as a name to be looked up each time.
//!
//! Why it is sound:
//! - Every pointer that is kept ([`BatchQueue`], [`OutputTopicHandle`]) belongs to a librdkafka
//!   client, and its owner here holds an `Arc` of that client: the fields are declared so that the
//!   pointer is released before the client. librdkafka's clients may be used from any thread.
//! - Messages are owned by [`Batch`], which destroys each exactly once. What is lent of a message (key,
//!   value, headers) lives no longer than the closure call it is lent to.
//! - `rd_kafka_produceva` with `RD_KAFKA_MSG_F_COPY` copies key and value before it returns. It takes
//!   the headers over exactly where it succeeds; they are destroyed here where it fails.
//! - Every `rd_kafka_error_t` is destroyed once, after it was read.
#![expect(unsafe_code, reason = "see above")]

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};

use crate::codec::Header;

/// Headers that are lent without an allocation; more of them take one.
const HEADERS_INLINE: usize = 24;

/// Fetches messages of chosen partitions in batches.
///
/// The consumer's own queue carries rebalances as well, which only the crate's `poll` may serve. So
/// the partitions are forwarded to a queue of their own: before they are first read, or librdkafka
/// forwards them to the consumer's. It undoes that when a partition is stopped, so `forward` is to be
/// repeated now and then: nothing is lost meanwhile, what was fetched waits in the partition's queue.
pub struct BatchQueue<C: ConsumerContext + 'static> {
    queue: *mut rd::rd_kafka_queue_t,
    consumer: Arc<BaseConsumer<C>>,
}

/// One fetched message, or what was fetched in place of one.
pub struct Fetched<'a> {
    pub topic: &'a [u8],
    pub partition: i32,
    pub offset: i64,
    pub kind: FetchedKind<'a>,
}

pub enum FetchedKind<'a> {
    Message {
        /// -1 where it has none.
        timestamp_ms: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: &'a [Header<'a>],
    },
    /// The partition is read to its end; the offset is the next one.
    End,
    /// The offset is not, or no longer, in the log.
    OutOfRange,
    Error(RDKafkaErrorCode),
}

/// Messages that were fetched together.
pub struct Batch<'q> {
    messages: Vec<*mut rd::rd_kafka_message_t>,
    /// Messages must be gone before their client.
    queue: PhantomData<&'q ()>,
}

impl<C: ConsumerContext + 'static> BatchQueue<C> {
    pub fn new(consumer: &Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the client lives as long as `consumer`, of which a clone is kept.
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        BatchQueue { queue, consumer: Arc::clone(consumer) }
    }

    /// From now on the partition's messages come here; to be repeated, see above.
    pub fn forward(&self, topic: &CStr, partition: i32) {
        // SAFETY: client and queue are alive; the reference to the partition's queue, null where the
        // client does not know the partition, is given back at once.
        unsafe {
            let client = self.consumer.client().native_ptr();
            let source = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if !source.is_null() {
                rd::rd_kafka_queue_forward(source, self.queue);
                rd::rd_kafka_queue_destroy(source);
            }
        }
    }

    /// Fetches until there are `messages_max` or `wait` is over, whichever is first.
    pub fn fetch(&self, wait: Duration, messages_max: usize) -> Batch<'_> {
        let mut messages = Vec::with_capacity(messages_max);
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: there is room for `messages_max` pointers, and librdkafka initialises as many as
        // it returns.
        unsafe {
            let fetched = rd::rd_kafka_consume_batch_queue(
                self.queue,
                wait_ms,
                messages.as_mut_ptr(),
                messages_max,
            );
            messages.set_len(usize::try_from(fetched).unwrap_or(0));
        }
        Batch { messages, queue: PhantomData }
    }
}

impl<C: ConsumerContext + 'static> Drop for BatchQueue<C> {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once, while the client is alive.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}

impl Batch<'_> {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Lends each message, in order.
    pub fn each(&self, mut take: impl FnMut(Fetched<'_>)) {
        for message in &self.messages {
            // SAFETY: owned by this batch and not destroyed before `self` is dropped.
            let fetched = unsafe { &**message };
            // SAFETY: as above.
            unsafe { lend(*message, fetched, &mut take) }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: owned by this batch; each is destroyed once.
            unsafe { rd::rd_kafka_message_destroy(*message) }
        }
    }
}

/// # Safety
/// `pointer` and `message` are the same, valid message.
unsafe fn lend(
    pointer: *mut rd::rd_kafka_message_t,
    message: &rd::rd_kafka_message_t,
    take: &mut impl FnMut(Fetched<'_>),
) {
    use rd::rd_kafka_resp_err_t as code;
    // SAFETY: a message has a topic, and its name is a C string that lives as long.
    let topic = unsafe {
        if message.rkt.is_null() {
            &[]
        } else {
            CStr::from_ptr(rd::rd_kafka_topic_name(message.rkt)).to_bytes()
        }
    };
    let (partition, offset) = (message.partition, message.offset);
    if message.err != code::RD_KAFKA_RESP_ERR_NO_ERROR {
        const OUT_OF_RANGE: [code; 2] = [
            code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET,
            code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
        ];
        let kind = if message.err == code::RD_KAFKA_RESP_ERR__PARTITION_EOF {
            FetchedKind::End
        } else if OUT_OF_RANGE.contains(&message.err) {
            FetchedKind::OutOfRange
        } else {
            FetchedKind::Error(message.err.into())
        };
        return take(Fetched { topic, partition, offset, kind });
    }
    let mut timestamp_type = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: a valid message and a valid place for the type.
    let timestamp_ms = unsafe { rd::rd_kafka_message_timestamp(pointer, &raw mut timestamp_type) };
    // SAFETY: librdkafka's lengths belong to its pointers.
    let (key, value) =
        unsafe { (bytes(message.key, message.key_len), bytes(message.payload, message.len)) };
    let mut inline = [Header { name: "", value: None }; HEADERS_INLINE];
    let mut more = Vec::new();
    // SAFETY: the headers live as long as the message.
    let headers = unsafe { headers(pointer, &mut inline, &mut more) };
    let kind = FetchedKind::Message { timestamp_ms, key, value, headers };
    take(Fetched { topic, partition, offset, kind });
}

/// # Safety
/// `pointer` is null or points to `length` bytes that live for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer.cast(), length) })
}

/// # Safety
/// `message` is valid for `'a`.
unsafe fn headers<'a, 'b>(
    message: *const rd::rd_kafka_message_t,
    inline: &'b mut [Header<'a>; HEADERS_INLINE],
    more: &'b mut Vec<Header<'a>>,
) -> &'b [Header<'a>] {
    let mut list = ptr::null_mut();
    // SAFETY: a valid message and a valid place for the list, which the message keeps.
    let found = unsafe { rd::rd_kafka_message_headers(message, &raw mut list) };
    if found != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return &[];
    }
    let mut count = 0;
    loop {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: a valid list and valid places; an index past the end is an error, not undefined.
        let found = unsafe {
            rd::rd_kafka_header_get_all(list, count, &raw mut name, &raw mut value, &raw mut length)
        };
        if found != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            break;
        }
        // SAFETY: name and value live as long as the message.
        let header = unsafe {
            Header {
                // A name that is no text is nobody's header that we know.
                name: CStr::from_ptr(name).to_str().unwrap_or(""),
                value: bytes(value, length),
            }
        };
        match inline.get_mut(count) {
            Some(place) => *place = header,
            None => {
                if count == HEADERS_INLINE {
                    more.extend_from_slice(inline);
                }
                more.push(header);
            }
        }
        count += 1;
    }
    if more.is_empty() { &inline[..count] } else { more }
}

/// A topic to produce to, looked up once.
pub struct OutputTopicHandle<C: ProducerContext + 'static> {
    topic: *mut rd::rd_kafka_topic_t,
    producer: Arc<ThreadedProducer<C>>,
}

/// One record to produce.
pub struct Output<'a, H> {
    pub partition: i32,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: H,
    pub headers_count: usize,
    /// Handed to the delivery callback.
    pub opaque: usize,
}

impl<C: ProducerContext + 'static> OutputTopicHandle<C> {
    /// `None` where librdkafka refuses the name.
    pub fn new(producer: &Arc<ThreadedProducer<C>>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the client lives as long as `producer`, of which a clone is kept; a null
        // configuration means the client's.
        let topic = unsafe {
            let client = producer.client().native_ptr();
            rd::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut())
        };
        (!topic.is_null()).then(|| OutputTopicHandle { topic, producer: Arc::clone(producer) })
    }

    /// Hands a record over to the producer's queue.
    pub fn produce<'h>(
        &self,
        output: Output<'_, impl Iterator<Item = (&'h str, Option<&'h [u8]>)>>,
    ) -> Result<(), CallError> {
        use rd::rd_kafka_vtype_t as vtype;
        // SAFETY: a count is only a hint; the list is handed over or destroyed below.
        let list = unsafe { rd::rd_kafka_headers_new(output.headers_count) };
        for (name, value) in output.headers {
            let (pointer, length) =
                value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
            // SAFETY: name and value are valid for their lengths, and are copied.
            unsafe {
                rd::rd_kafka_header_add(
                    list,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    pointer.cast(),
                    length as isize,
                );
            }
        }
        let arguments = [
            argument(vtype::RD_KAFKA_VTYPE_RKT, |value| value.rkt = self.topic),
            argument(vtype::RD_KAFKA_VTYPE_PARTITION, |value| value.i32_ = output.partition),
            argument(vtype::RD_KAFKA_VTYPE_MSGFLAGS, |value| value.i = rd::RD_KAFKA_MSG_F_COPY),
            argument(vtype::RD_KAFKA_VTYPE_TIMESTAMP, |value| value.i64_ = output.timestamp_ms),
            argument(vtype::RD_KAFKA_VTYPE_KEY, |value| value.mem = memory(output.key)),
            argument(vtype::RD_KAFKA_VTYPE_VALUE, |value| value.mem = memory(output.value)),
            argument(vtype::RD_KAFKA_VTYPE_OPAQUE, |value| {
                value.ptr = output.opaque as *mut c_void
            }),
            argument(vtype::RD_KAFKA_VTYPE_HEADERS, |value| value.headers = list),
        ];
        // SAFETY: each argument has the member of its type set; key and value are copied.
        let error = unsafe {
            let client = self.producer.client().native_ptr();
            rd::rd_kafka_produceva(client, arguments.as_ptr(), arguments.len())
        };
        // SAFETY: a new error or null; the headers are still ours exactly in case of an error.
        unsafe {
            if !error.is_null() {
                rd::rd_kafka_headers_destroy(list);
            }
            CallError::take(error)
        }
    }
}

impl<C: ProducerContext + 'static> Drop for OutputTopicHandle<C> {
    fn drop(&mut self) {
        // SAFETY: made in `new`, released once, while the client is alive.
        unsafe { rd::rd_kafka_topic_destroy(self.topic) }
    }
}

type ArgumentValue = rd::rd_kafka_vu_s__bindgen_ty_1;
type Memory = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1;

fn argument(
    vtype: rd::rd_kafka_vtype_t,
    set: impl FnOnce(&mut ArgumentValue),
) -> rd::rd_kafka_vu_t {
    let mut value = ArgumentValue { _pad: [0; 64] };
    set(&mut value);
    rd::rd_kafka_vu_t { vtype, u: value }
}

fn memory(bytes: Option<&[u8]>) -> Memory {
    match bytes {
        Some(bytes) => Memory { ptr: bytes.as_ptr().cast_mut().cast(), size: bytes.len() },
        None => Memory { ptr: ptr::null_mut(), size: 0 },
    }
}

/// An error of librdkafka, with what it says about what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {reason}")]
pub struct CallError {
    pub code: RDKafkaErrorCode,
    pub reason: String,
    pub is_fatal: bool,
    pub is_retriable: bool,
    pub requires_abort: bool,
}

impl CallError {
    /// # Safety
    /// `error` is null or an error that nobody else destroys.
    unsafe fn take(error: *mut rd::rd_kafka_error_t) -> Result<(), CallError> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a valid error; its string is copied before it is destroyed.
        unsafe {
            let taken = CallError {
                code: rd::rd_kafka_error_code(error).into(),
                reason: CStr::from_ptr(rd::rd_kafka_error_string(error))
                    .to_string_lossy()
                    .into_owned(),
                is_fatal: rd::rd_kafka_error_is_fatal(error) != 0,
                is_retriable: rd::rd_kafka_error_is_retriable(error) != 0,
                requires_abort: rd::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            rd::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }
}

/// Waits until all records are delivered or have failed; `false` where `wait` is over before.
///
/// Delivery reports are served by the [`ThreadedProducer`]'s own thread.
pub fn flush<C: ProducerContext + 'static>(producer: &ThreadedProducer<C>, wait: Duration) -> bool {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive.
    let code = unsafe { rd::rd_kafka_flush(producer.client().native_ptr(), wait_ms) };
    code == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Commits the open transaction. What has been produced must be flushed.
pub fn commit_transaction<C: ProducerContext + 'static>(
    producer: &ThreadedProducer<C>,
    wait: Duration,
) -> Result<(), CallError> {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive; the error is taken over.
    unsafe {
        let client = producer.client().native_ptr();
        CallError::take(rd::rd_kafka_commit_transaction(client, wait_ms))
    }
}
