//! Offsets, and those of transactions.

use super::check;

#[test]
fn simple_consumers_commit_to_an_empty_group() {
    check(
        0,
        "
        0 fetch group=g of=t:0
        > 1 t:0:-1:-1::ok
        0 fetch group=g
        > 2
        0 commit at=t:9:1,x:0:1
        > 3 t:9:UnknownTopicOrPartition x:0:UnknownTopicOrPartition
        0 list
        > 4
        0 commit at=t:0:5:note,t:2:1,u:1:6 epoch=3
        > 5 t:0:ok t:2:UnknownTopicOrPartition u:1:ok
        0 fetch of=t:0,t:1,u:1,x:0
        > 6 t:0:5:3:note:ok t:1:-1:-1::ok u:1:6:3::ok x:0:-1:-1::ok
        0 fetch
        > 7 t:0:5:3:note:ok u:1:6:3::ok
        0 commit gen=0 group=other at=t:0:1
        > 8 t:0:IllegalGeneration
        0 commit id=somebody at=t:0:6
        > 9 t:0:ok
        0 commit id=somebody gen=0 at=t:0:6
        > 10 t:0:UnknownMemberId
        0 commit id=somebody static=s gen=0 at=t:0:6
        > 11 t:0:UnknownMemberId
        0 commit group= at=t:0:9
        > 12 t:0:ok
        0 fetch group=
        > 13 t:0:9:-1::ok
        0 delete topic=t
        0 fetch
        > 15 u:1:6:3::ok
        ",
    );
}

#[test]
fn members_commit_in_their_generation() {
    check(
        0,
        "
        0 join client=a v=3
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 commit at=t:0:1
        > 2 t:0:UnknownMemberId
        0 commit id=a#1 gen=1 at=t:0:1
        > 3 t:0:RebalanceInProgress
        0 sync id=a#1 gen=1 give=a#1:x
        > 4 assignment=x
        0 commit at=t:0:1
        > 5 t:0:UnknownMemberId
        0 commit id=a#1 at=t:0:1
        > 6 t:0:IllegalGeneration
        0 commit id=a#1 gen=0 at=t:0:1
        > 7 t:0:IllegalGeneration
        0 commit id=b gen=1 at=t:0:1
        > 8 t:0:UnknownMemberId
        0 commit id=a#1 static=s gen=1 at=t:0:1
        > 9 t:0:UnknownMemberId
        # a commit keeps the session
        5000 commit id=a#1 gen=1 at=t:0:2
        > 10 t:0:ok
        10000 beat id=a#1 gen=1
        > 11 ok
        # while others join, too
        10001 join client=b v=3
        10002 commit id=a#1 gen=1 at=t:0:3
        > 13 t:0:ok
        10002 fetch of=t:0
        > 14 t:0:3:-1::ok
        ",
    );
}

#[test]
fn offsets_of_a_transaction_are_pending_until_it_ends() {
    check(
        0,
        "
        0 commit at=t:0:1,t:1:1
        > 1 t:0:ok t:1:ok
        0 pend producer=7 at=t:0:5:note,u:0:6,u:7:1 epoch=2
        > 2 t:0:ok u:0:ok u:7:UnknownTopicOrPartition
        0 fetch of=t:0,u:0,t:1
        > 3 t:0:1:-1::ok u:0:-1:-1::ok t:1:1:-1::ok
        0 fetch of=t:0,u:0,t:1 stable=yes
        > 4 t:0:-1:-1::UnstableOffsetCommit u:0:-1:-1::UnstableOffsetCommit t:1:1:-1::ok
        0 fetch stable=yes
        > 5 t:0:-1:-1::UnstableOffsetCommit t:1:1:-1::ok
        0 settle producer=8 commit=yes
        0 settle producer=7 commit=no
        0 fetch stable=yes
        > 8 t:0:1:-1::ok t:1:1:-1::ok
        0 pend producer=7 at=t:0:5:note,u:0:6 epoch=2
        > 9 t:0:ok u:0:ok
        0 settle producer=7 commit=yes
        0 fetch stable=yes
        > 11 t:0:5:2:note:ok t:1:1:-1::ok u:0:6:2::ok
        # the last to be appended wins, whoever ends last
        0 pend producer=7 at=t:0:10,t:1:10
        > 12 t:0:ok t:1:ok
        0 pend producer=8 at=t:0:20
        > 13 t:0:ok
        0 commit at=t:1:30
        > 14 t:1:ok
        0 settle producer=8 commit=yes
        0 fetch of=t:0,t:1 stable=yes
        > 16 t:0:-1:-1::UnstableOffsetCommit t:1:-1:-1::UnstableOffsetCommit
        0 settle producer=7 commit=yes
        0 fetch of=t:0,t:1 stable=yes
        > 18 t:0:20:-1::ok t:1:30:-1::ok
        # a topic that is deleted meanwhile
        0 pend producer=7 at=u:0:99,t:0:99
        > 19 u:0:ok t:0:ok
        0 delete topic=u
        0 settle producer=7 commit=yes
        0 fetch
        > 22 t:0:99:-1::ok t:1:30:-1::ok
        ",
    );
}

#[test]
fn who_may_commit_in_a_transaction() {
    check(
        0,
        "
        0 pend group= producer=1 at=t:0:1
        > 1 t:0:InvalidGroupId
        0 pend producer=1 allowed=no at=t:0:1,x:0:1
        > 2 t:0:InvalidTxnState x:0:UnknownTopicOrPartition
        0 pend producer=1 at=x:0:1
        > 3 x:0:UnknownTopicOrPartition
        0 pend producer=1 gen=1 at=t:0:1
        > 4 t:0:IllegalGeneration
        0 list
        > 5
        0 pend producer=1 at=t:0:1
        > 6 t:0:ok
        0 list
        > 7 g::Empty
        # an empty group: no generation, no question; else the member must be known
        0 pend producer=1 id=a at=t:0:1
        > 8 t:0:ok
        0 pend producer=1 id=a gen=0 at=t:0:1
        > 9 t:0:UnknownMemberId
        0 join client=a static=s
        > 10 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        # without member id and generation, at any time
        0 pend producer=1 at=t:0:2
        > 11 t:0:ok
        0 pend producer=1 id=s#1 gen=1 static=s at=t:0:3
        > 12 t:0:ok
        0 pend producer=1 id=s#1 gen=1 at=t:0:3
        > 13 t:0:ok
        0 pend producer=1 id=s#1 gen=0 at=t:0:3
        > 14 t:0:IllegalGeneration
        0 pend producer=1 id=s#1 at=t:0:3
        > 15 t:0:IllegalGeneration
        0 pend producer=1 gen=1 at=t:0:3
        > 16 t:0:UnknownMemberId
        0 pend producer=1 id=s gen=1 static=s at=t:0:3
        > 17 t:0:FencedInstanceId
        0 pend producer=1 id=s#1 gen=1 static=r at=t:0:3
        > 18 t:0:UnknownMemberId
        0 settle producer=1 commit=yes
        0 fetch
        > 20 t:0:3:-1::ok
        ",
    );
}

#[test]
fn metadata_has_a_bound() {
    let fits = "é".repeat(4096);
    check(
        0,
        &format!(
            "
            0 commit at=t:0:1:{fits}
            > 1 t:0:ok
            0 commit at=t:0:2:{fits}x,t:1:2
            > 2 t:0:OffsetMetadataTooLarge t:1:ok
            0 pend producer=1 at=t:0:2:{fits}x
            > 3 t:0:OffsetMetadataTooLarge
            0 fetch of=t:0
            > 4 t:0:1:-1:{fits}:ok
            "
        ),
    );
}
