//! Kafka's protocol: frames to requests, replies to frames. The encoding itself is `kafka-protocol`'s.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message};

use super::guard::Guarded;

/// The error code of a version that is not served.
const UNSUPPORTED_VERSION: i16 = 35;

/// Why a frame cannot be answered; the connection ends.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {0} bytes is too short for a request's header")]
    Short(usize),
    #[error("API key {0} is not served")]
    Api(i16),
    #[error("version {version} of {api:?} is not served: {min} to {max} are")]
    Version { api: ApiKey, version: i16, min: i16, max: i16 },
    #[error("a {api:?} request of version {version} cannot be decoded: {reason}")]
    Malformed { api: ApiKey, version: i16, reason: String },
    #[error("a {api:?} response of version {version} cannot be encoded: {reason}")]
    Encode { api: ApiKey, version: i16, reason: String },
}

/// A request as it came, with what its answer needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub request: Request,
    pub version: i16,
    pub correlation_id: i32,
    /// Empty where the client gave none.
    pub client_id: String,
}

macro_rules! apis {
    ($($name:ident($request:ident, $response:ident) $min:literal to $max:literal;)*) => {
        /// The requests that are served.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request { $($name($request),)* }

        /// Their answers.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Reply { $($name($response),)* }

        /// What is served: API, lowest and highest version.
        pub const SERVED: &[(ApiKey, i16, i16)] = &[$((ApiKey::$name, $min, $max),)*];

        impl Request {
            pub fn api(&self) -> ApiKey {
                match self { $(Request::$name(_) => ApiKey::$name,)* }
            }

            fn decode<B: ByteBuf>(
                api: ApiKey, version: i16, body: &mut B,
            ) -> Result<Self, WireError> {
                $(if api == ApiKey::$name {
                    // A version that the crate does not know cannot be decoded, though it may be
                    // announced: see Produce.
                    let known = $request::VERSIONS.min..=$request::VERSIONS.max;
                    if !known.contains(&version) {
                        let (min, max) = (*known.start(), *known.end());
                        return Err(WireError::Version { api, version, min, max });
                    }
                    return $request::decode(body, version)
                        .map(Request::$name)
                        .map_err(|error| WireError::Malformed {
                            api, version, reason: error.to_string(),
                        });
                })*
                Err(WireError::Api(api as i16))
            }
        }

        impl Reply {
            pub fn api(&self) -> ApiKey {
                match self { $(Reply::$name(_) => ApiKey::$name,)* }
            }

            fn encode_into(&self, header: &ResponseHeader, version: i16, frame: &mut BytesMut)
                -> Result<(), String>
            {
                match self {
                    $(Reply::$name(body) => {
                        header
                            .encode(frame, $response::header_version(version))
                            .and_then(|()| body.encode(frame, version))
                            .map_err(|error| error.to_string())
                    })*
                }
            }
        }

        $(impl From<$response> for Reply {
            fn from(response: $response) -> Self { Reply::$name(response) }
        })*
    };
}

// Produce: a minimum of 3 would make older librdkafka drop compressions without a word.
apis! {
    ApiVersions(ApiVersionsRequest, ApiVersionsResponse) 0 to 3;
    Metadata(MetadataRequest, MetadataResponse) 0 to 12;
    CreateTopics(CreateTopicsRequest, CreateTopicsResponse) 2 to 4;
    DeleteTopics(DeleteTopicsRequest, DeleteTopicsResponse) 1 to 3;
    DeleteRecords(DeleteRecordsRequest, DeleteRecordsResponse) 0 to 2;
    CreatePartitions(CreatePartitionsRequest, CreatePartitionsResponse) 0 to 1;
    DescribeConfigs(DescribeConfigsRequest, DescribeConfigsResponse) 1 to 2;
    Produce(ProduceRequest, ProduceResponse) 0 to 9;
    Fetch(FetchRequest, FetchResponse) 4 to 12;
    ListOffsets(ListOffsetsRequest, ListOffsetsResponse) 1 to 7;
    FindCoordinator(FindCoordinatorRequest, FindCoordinatorResponse) 0 to 2;
    JoinGroup(JoinGroupRequest, JoinGroupResponse) 0 to 5;
    SyncGroup(SyncGroupRequest, SyncGroupResponse) 0 to 3;
    Heartbeat(HeartbeatRequest, HeartbeatResponse) 0 to 3;
    LeaveGroup(LeaveGroupRequest, LeaveGroupResponse) 0 to 1;
    OffsetCommit(OffsetCommitRequest, OffsetCommitResponse) 2 to 7;
    OffsetFetch(OffsetFetchRequest, OffsetFetchResponse) 1 to 7;
    ListGroups(ListGroupsRequest, ListGroupsResponse) 0 to 4;
    DescribeGroups(DescribeGroupsRequest, DescribeGroupsResponse) 0 to 4;
    DeleteGroups(DeleteGroupsRequest, DeleteGroupsResponse) 0 to 1;
    InitProducerId(InitProducerIdRequest, InitProducerIdResponse) 0 to 4;
    AddPartitionsToTxn(AddPartitionsToTxnRequest, AddPartitionsToTxnResponse) 0 to 0;
    AddOffsetsToTxn(AddOffsetsToTxnRequest, AddOffsetsToTxnResponse) 0 to 0;
    TxnOffsetCommit(TxnOffsetCommitRequest, TxnOffsetCommitResponse) 0 to 3;
    EndTxn(EndTxnRequest, EndTxnResponse) 0 to 1;
}

/// Decodes a frame, without its length.
///
/// # Errors
/// What is wrong with it. An `ApiVersions` of an unknown version is none: it is answered by the
/// versions that are known, see [`api_versions`].
pub fn decode(mut frame: Bytes) -> Result<Call, WireError> {
    let length = frame.len();
    let [Some(key), Some(version)] = [0, 2]
        .map(|at| frame.get(at..at + 2).map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]])))
    else {
        return Err(WireError::Short(length));
    };
    let api = ApiKey::try_from(key).map_err(|()| WireError::Api(key))?;
    let Some((_, min, max)) = SERVED.iter().copied().find(|(served, _, _)| *served == api) else {
        return Err(WireError::Api(key));
    };
    let is_served = (min..=max).contains(&version);
    if !is_served && api != ApiKey::ApiVersions {
        return Err(WireError::Version { api, version, min, max });
    }
    let mut guarded = Guarded::new(frame.clone());
    let mut parts = read(api, version, is_served, &mut guarded)?;
    if guarded.has_cut_down() {
        parts = read(api, version, is_served, &mut frame)?;
    }
    let (header, request) = parts;
    let client_id = header.client_id.map_or_else(String::new, |id| id.to_string());
    Ok(Call { request, version, correlation_id: header.correlation_id, client_id })
}

fn read<B: ByteBuf>(
    api: ApiKey,
    version: i16,
    is_served: bool,
    frame: &mut B,
) -> Result<(RequestHeader, Request), WireError> {
    let header = RequestHeader::decode(frame, api.request_header_version(version))
        .map_err(|error| WireError::Malformed { api, version, reason: error.to_string() })?;
    let request = if is_served {
        Request::decode(api, version, frame)?
    } else {
        Request::ApiVersions(ApiVersionsRequest::default())
    };
    Ok((header, request))
}

/// Encodes an answer, its length first.
///
/// # Errors
/// A field that its version does not have: a bug of the model.
pub fn encode(reply: &Reply, version: i16, correlation_id: i32) -> Result<Bytes, WireError> {
    let api = reply.api();
    // What the client asked in a version that it was told it cannot: as version 0.
    let served = SERVED.iter().any(|(of, min, max)| *of == api && (min..=max).contains(&&version));
    let version = if served { version } else { 0 };
    let mut frame = BytesMut::from(&[0; 4][..]);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    reply.encode_into(&header, version, &mut frame).map_err(|reason| WireError::Encode {
        api,
        version,
        reason,
    })?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| WireError::Encode {
        api,
        version,
        reason: "longer than 4 GiB".to_owned(),
    })?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// What is served, as a client asks for it first of all.
pub fn api_versions(version: i16) -> ApiVersionsResponse {
    let served = SERVED.iter().map(|(api, min, max)| {
        ApiVersion::default()
            .with_api_key(*api as i16)
            .with_min_version(*min)
            .with_max_version(*max)
    });
    let is_served = SERVED
        .iter()
        .any(|(api, min, max)| *api == ApiKey::ApiVersions && (*min..=*max).contains(&version));
    ApiVersionsResponse::default()
        .with_error_code(if is_served { 0 } else { UNSUPPORTED_VERSION })
        .with_api_keys(served.collect())
}
