//! Joins, rebalances, sessions, and what tools see of them.

use super::check;

#[test]
fn members_join_and_leave() {
    check(
        0,
        "
        0 join client=a
        > 1 MemberIdRequired id=a#1
        0 join client=a id=a#1
        > 2 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 sync id=a#1 gen=1 give=a#1:x
        > 3 assignment=x
        10 beat id=a#1 gen=1
        > 4 ok
        20 join client=b
        > 5 MemberIdRequired id=b#2@14
        20 join client=b id=b#2@14
        25 beat id=a#1 gen=1
        > 7 RebalanceInProgress
        25 commit id=a#1 gen=1 at=t:0:7
        > 8 t:0:ok
        30 join client=a id=a#1
        > 9 joined id=a#1 gen=2 range leader=a#1 a#1:-:m b#2@14:-:m
        > 6 joined id=b#2@14 gen=2 range leader=a#1
        30 commit id=a#1 gen=1 at=t:0:8
        > 10 t:0:IllegalGeneration
        30 commit id=a#1 gen=2 at=t:0:8
        > 11 t:0:RebalanceInProgress
        40 sync id=b#2@14 gen=2
        40 beat id=b#2@14 gen=2
        > 13 ok
        50 sync id=a#1 gen=2 give=a#1:x,b#2@14:y
        > 14 assignment=x
        > 12 assignment=y
        55 sync id=b#2@14 gen=2
        > 15 assignment=y
        60 join client=c v=3
        70 join client=b id=b#2@14
        70 join client=a id=a#1
        > 18 joined id=a#1 gen=3 range leader=a#1 a#1:-:m b#2@14:-:m c#3@3c:-:m
        > 17 joined id=b#2@14 gen=3 range leader=a#1
        > 16 joined id=c#3@3c gen=3 range leader=a#1
        80 sync id=a#1 gen=3 give=a#1:x,b#2@14:y
        > 19 assignment=x
        80 sync id=b#2@14 gen=3
        > 20 assignment=y
        80 sync id=c#3@3c gen=3
        > 21 assignment=
        90 leave id=c#3@3c
        > 22 ok
        90 beat id=c#3@3c gen=3
        > 23 UnknownMemberId
        90 beat id=b#2@14 gen=3
        > 24 RebalanceInProgress
        95 join client=b id=b#2@14
        99 leave id=a#1
        > 25 joined id=b#2@14 gen=4 range leader=b#2@14 b#2@14:-:m
        > 26 ok
        99 join client=c id=c#3@3c
        > 27 UnknownMemberId id=c#3@3c
        99 join client=b id=b#2@14
        > 28 joined id=b#2@14 gen=4 range leader=b#2@14 b#2@14:-:m
        100 sync id=b#2@14 gen=4 give=b#2@14:all
        > 29 assignment=all
        100 leave id=c#3@3c
        > 30 UnknownMemberId
        101 join client=b id=b#2@14
        > 31 joined id=b#2@14 gen=5 range leader=b#2@14 b#2@14:-:m
        110 leave id=b#2@14
        > 32 ok
        110 describe
        > 33 g Empty consumer/
        ",
    );
}

#[test]
fn what_cannot_join() {
    check(
        0,
        "
        0 join group= client=a
        > 1 InvalidGroupId id=
        0 join client=a session=5999
        > 2 InvalidSessionTimeout id=
        0 join client=a session=1800001
        > 3 InvalidSessionTimeout id=
        0 join client=a session=1800000
        > 4 MemberIdRequired id=a#1
        0 join client=a id=stranger
        > 5 UnknownMemberId id=stranger
        0 join group=none client=a id=stranger
        > 6 UnknownMemberId id=stranger
        0 join client=a type=
        > 7 InconsistentGroupProtocol id=
        0 join client=a id=a#1
        > 8 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 join client=b type=connect
        > 9 InconsistentGroupProtocol id=
        0 join client=b protocols=roundrobin:m
        > 10 InconsistentGroupProtocol id=
        0 join client=b protocols=roundrobin:m,range:n
        > 11 MemberIdRequired id=b#5
        0 join client=b id=b#5 static=s
        > 12 UnknownServerError id=b#5
        0 sync group= id=a#1 gen=1
        > 13 InvalidGroupId
        0 sync group=none id=a#1 gen=1
        > 14 UnknownMemberId
        0 sync id=a#1 gen=2
        > 15 IllegalGeneration
        0 sync id=stranger gen=1
        > 16 UnknownMemberId
        0 sync id=a#1 gen=1 static=s
        > 17 UnknownMemberId
        0 beat group= id=a#1 gen=1
        > 18 InvalidGroupId
        0 beat group=none id=a#1 gen=1
        > 19 UnknownMemberId
        0 beat id=a#1 gen=0
        > 20 IllegalGeneration
        0 leave group= id=a#1
        > 21 InvalidGroupId
        0 leave group=none id=a#1
        > 22 UnknownMemberId
        0 leave id=stranger
        > 23 UnknownMemberId
        0 leave id=
        > 24 UnknownMemberId
        ",
    );
}

#[test]
fn the_protocol_that_all_support_and_most_prefer_is_taken() {
    check(
        3000,
        "
        0 join v=0 client=a protocols=sticky:1,range:2,roundrobin:3
        1 join v=3 client=b protocols=range:4,roundrobin:5
        2 join v=3 client=c protocols=roundrobin:6,range:7
        3 join v=3 client=d protocols=roundrobin:8,range:9
        3000 wait
        6000 wait
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:2 b#2@1:-:4 c#3@2:-:7 d#4@3:-:9
        > 2 joined id=b#2@1 gen=1 range leader=a#1
        > 3 joined id=c#3@2 gen=1 range leader=a#1
        > 4 joined id=d#4@3 gen=1 range leader=a#1
        7000 join v=3 client=d id=d#4@3 protocols=range:9
        7000 join v=3 client=c id=c#3@2 protocols=range:7
        7000 join v=3 client=b id=b#2@1 protocols=range:4
        7000 join v=0 client=a id=a#1 protocols=range:2
        > 10 joined id=a#1 gen=2 range leader=a#1 a#1:-:2 b#2@1:-:4 c#3@2:-:7 d#4@3:-:9
        > 9 joined id=b#2@1 gen=2 range leader=a#1
        > 8 joined id=c#3@2 gen=2 range leader=a#1
        > 7 joined id=d#4@3 gen=2 range leader=a#1
        ",
    );
}

#[test]
fn a_new_group_waits_for_members_as_long_as_they_come() {
    check(
        3000,
        "
        0 join v=3 client=a rebalance=8000
        1000 join v=3 client=b rebalance=8000
        2999 wait
        3000 wait
        5000 join v=3 client=c rebalance=8000
        6000 wait
        7999 wait
        8000 wait
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m b#2@3e8:-:m c#3@1388:-:m
        > 2 joined id=b#2@3e8 gen=1 range leader=a#1
        > 5 joined id=c#3@1388 gen=1 range leader=a#1
        # none came in the second delay
        10000 join group=h v=3 client=d
        11000 join group=h v=3 client=e
        15999 wait
        16000 wait
        > 9 joined id=d#4@2710 gen=1 range leader=d#4@2710 d#4@2710:-:m e#5@2af8:-:m
        > 10 joined id=e#5@2af8 gen=1 range leader=d#4@2710
        ",
    );
}

#[test]
fn a_join_that_is_sent_again() {
    check(
        0,
        "
        0 join v=3 client=a
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        # nothing was lost: the same generation
        1 join client=a id=a#1
        > 2 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        2 join client=a id=a#1 protocols=range:new
        > 3 joined id=a#1 gen=2 range leader=a#1 a#1:-:new
        3 join v=3 client=b
        # the third waits, the fourth takes its place, and the request before is not answered
        4 join client=a id=a#1
        > 5 joined id=a#1 gen=3 range leader=a#1 a#1:-:m b#2@3:-:m
        > 4 joined id=b#2@3 gen=3 range leader=a#1
        5 join client=b id=b#2@3
        > 6 joined id=b#2@3 gen=3 range leader=a#1
        6 sync id=b#2@3 gen=3
        7 sync id=b#2@3 gen=3
        8 sync id=a#1 gen=3 give=a#1:x,b#2@3:y
        > 9 assignment=x
        > 8 assignment=y
        9 join client=b id=b#2@3
        > 10 joined id=b#2@3 gen=3 range leader=a#1
        9 join client=a id=a#1
        9 join client=b id=b#2@3
        > 11 joined id=a#1 gen=4 range leader=a#1 a#1:-:m b#2@3:-:m
        > 12 joined id=b#2@3 gen=4 range leader=a#1
        ",
    );
}

#[test]
fn sessions_end() {
    check(
        0,
        "
        0 join v=3 client=a
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 sync id=a#1 gen=1 give=a#1:x
        > 2 assignment=x
        3000 join client=b
        > 3 MemberIdRequired id=b#2@bb8
        5999 wait
        5999 beat id=a#1 gen=1
        > 5 ok
        8999 join client=b id=b#2@bb8
        # who waits for the others need not send heartbeats
        9000 beat id=a#1 gen=1
        > 7 RebalanceInProgress
        15000 describe
        > 6 joined id=b#2@bb8 gen=2 range leader=b#2@bb8 b#2@bb8:-:m
        > 8 g CompletingRebalance consumer/ b#2@bb8:-:b::
        15001 wait
        15001 beat id=a#1 gen=1
        > 10 UnknownMemberId
        15002 sync id=b#2@bb8 gen=2 give=b#2@bb8:all
        > 11 assignment=all
        # one that got an id and did not come
        16000 join client=c
        > 12 MemberIdRequired id=c#3@3e80
        17000 join client=b id=b#2@bb8
        21999 wait
        22000 wait
        > 13 joined id=b#2@bb8 gen=3 range leader=b#2@bb8 b#2@bb8:-:m
        ",
    );
}

#[test]
fn a_rebalance_goes_on_without_those_that_do_not_come() {
    check(
        0,
        "
        0 join v=3 client=a session=60000 rebalance=10000
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 sync id=a#1 gen=1 give=a#1:x
        > 2 assignment=x
        0 join v=3 client=b session=60000 rebalance=9000
        9999 wait
        10000 wait
        > 3 joined id=b#2 gen=2 range leader=b#2 b#2:-:m
        10000 beat id=a#1 gen=1
        > 6 UnknownMemberId
        # nor without those that do not ask for their assignment
        18999 wait
        19000 wait
        19000 list
        > 9 g:consumer:Empty
        19001 join v=3 client=c session=60000 rebalance=5000
        > 10 joined id=c#3@4a39 gen=4 range leader=c#3@4a39 c#3@4a39:-:m
        19001 join v=3 client=d session=60000 rebalance=5000
        19001 join client=c id=c#3@4a39 rebalance=5000
        > 12 joined id=c#3@4a39 gen=5 range leader=c#3@4a39 c#3@4a39:-:m d#4@4a39:-:m
        > 11 joined id=d#4@4a39 gen=5 range leader=c#3@4a39
        19002 sync id=d#4@4a39 gen=5
        # the timer of the generation before has no effect
        24000 wait
        24001 wait
        > 13 RebalanceInProgress
        24001 describe
        > 16 g PreparingRebalance consumer/ d#4@4a39:-:d::
        ",
    );
}

#[test]
fn an_answer_that_nobody_waits_for_is_not_given() {
    check(
        0,
        "
        0 join client=a v=3
        > 1 joined id=a#1 gen=1 range leader=a#1 a#1:-:m
        0 sync id=a#1 gen=1 give=a#1:x
        > 2 assignment=x
        1 join client=b v=3
        2 forget request=3
        3 join client=a id=a#1
        > 5 joined id=a#1 gen=2 range leader=a#1 a#1:-:m b#2@1:-:m
        4 describe
        > 6 g CompletingRebalance consumer/ a#1:-:a::x b#2@1:-:b::
        ",
    );
}

#[test]
fn tools_list_and_describe_groups() {
    check(
        0,
        "
        0 join client=a static=s
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        1 list
        > 2 g:consumer:CompletingRebalance
        1 describe
        > 3 g CompletingRebalance consumer/ s#1:s:a::
        2 sync id=s#1 gen=1 static=s give=s#1:x
        > 4 assignment=x
        2 describe
        > 5 g Stable consumer/range s#1:s:a:m:x
        3 commit group=simple at=t:0:1
        > 6 t:0:ok
        3 list
        > 7 g:consumer:Stable simple::Empty
        3 list states=stable
        > 8 g:consumer:Stable
        3 list states=Empty,PreparingRebalance
        > 9 simple::Empty
        3 list states=nonsense
        > 10
        3 describe group=simple
        > 11 simple Empty /
        3 describe group=none
        > 12 none Dead /
        4 join client=b group=h
        > 13 MemberIdRequired id=b#2@4
        4 list
        > 14 g:consumer:Stable h::Empty simple::Empty
        ",
    );
}
