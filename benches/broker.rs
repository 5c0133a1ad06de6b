//! What the modelled Kafka takes: records a second into the model, and through its front from one
//! librdkafka producer.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{CreateTopicsRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use pointsman::broker::front::{Front, FrontSettings};
use pointsman::broker::wire::Request;
use pointsman::broker::{Broker, Settings, Ticket};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// As many as librdkafka puts into a batch of 16 KiB.
const BATCH_RECORDS: u64 = 150;
const VALUE_BYTES: usize = 100;
const RECORDS: u64 = 1_000_000;

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn batch() -> Bytes {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let records: Vec<Record> = (0..BATCH_RECORDS)
        .map(|index| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: index as i64,
            sequence: index as i32 - 1,
            timestamp: 1_800_000_000_000,
            key: None,
            value: Some(value.clone()),
            headers: Default::default(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("records");
    bytes.freeze()
}

fn model(criterion: &mut Criterion) {
    let settings = Settings { log_bytes_max: 256 << 20, ..Settings::default() };
    let mut broker = Broker::new(settings);
    let create = CreatableTopic::default()
        .with_name(topic())
        .with_num_partitions(1)
        .with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![create]);
    broker.request(1, Ticket(0), "bench", 4, Request::CreateTopics(create));
    let batch = batch();
    let mut group = criterion.benchmark_group("model");
    group.throughput(Throughput::Elements(BATCH_RECORDS));
    group.bench_function("produce", |bencher| {
        let mut now_ms = 1;
        bencher.iter(|| {
            now_ms += 1;
            let data = PartitionProduceData::default().with_records(Some(batch.clone()));
            let data =
                TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
            let request = ProduceRequest::default().with_acks(1).with_topic_data(vec![data]);
            broker.request(now_ms, Ticket(1), "bench", 9, Request::Produce(request));
            broker.next_reply().expect("an answer")
        });
    });
    group.finish();
}

/// One producer, as fast as it can, into the front on a thread of its own.
fn front() {
    let front = Front::start(FrontSettings::default()).expect("a free port");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", front.address().to_string())
        .set("linger.ms", "5")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    let value = [b'x'; VALUE_BYTES];
    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    let began = Instant::now();
    for _ in 0..RECORDS {
        let mut record = BaseRecord::<(), [u8]>::to("t").payload(&value[..]);
        while let Err((error, back)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full);
            record = back;
            producer.poll(Duration::from_millis(1));
        }
    }
    producer.flush(Duration::from_secs(60)).expect("all is delivered");
    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    let took = began.elapsed();
    let rate = RECORDS as f64 / took.as_secs_f64();
    println!("front/produce: {rate:.0} records/s ({RECORDS} of {VALUE_BYTES} bytes, one producer)");
}

criterion_group!(benches, model);

fn main() {
    benches();
    front();
    Criterion::default().configure_from_args().final_summary();
}
