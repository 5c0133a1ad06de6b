//! Record batches as raw bytes (magic 2). They are kept as the client sent them: encoding them again
//! would lose flags, repeated header names and gaps between offsets.
//!
//! Layout: the Kafka protocol guide, "Record Batch". Big-endian.
