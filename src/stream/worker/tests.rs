pub(super) mod fault {
    use crate::codec::RawRecord;
    use crate::lane::Lane;

    pub fn offered(_record: &RawRecord<'_>) {}
    pub fn prepares(_lane: &Lane) {}
}
