//! Static members: restarts, second instances, and what happens while they are away.

use super::check;

#[test]
fn a_static_member_that_restarts_triggers_no_rebalance() {
    check(
        0,
        "
        0 join client=a static=s
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        1 join client=b static=t
        2 join client=a id=s#1 static=s
        > 3 joined id=s#1 gen=2 range leader=s#1 s#1:s:m t#2@1:t:m
        > 2 joined id=t#2@1 gen=2 range leader=s#1
        3 sync id=s#1 gen=2 static=s give=s#1:x,t#2@1:y
        > 4 assignment=x
        3 sync id=t#2@1 gen=2 static=t
        > 5 assignment=y
        # the follower, then the leader; neither is told that it leads
        10 join client=b static=t
        > 6 joined id=t#3@a gen=2 range leader=s#1
        10 sync id=t#3@a gen=2 static=t
        > 7 assignment=y
        20 join client=a static=s
        > 8 joined id=s#4@14 gen=2 range leader=s#1
        20 sync id=s#4@14 gen=2 static=s
        > 9 assignment=x
        # the ones before
        30 beat id=s#1 gen=2 static=s
        > 10 FencedInstanceId
        30 sync id=s#1 gen=2 static=s
        > 11 FencedInstanceId
        30 commit id=s#1 gen=2 static=s at=t:0:1
        > 12 t:0:FencedInstanceId
        30 pend producer=1 id=s#1 gen=2 static=s at=t:0:1
        > 13 t:0:FencedInstanceId
        30 join client=a id=s#1 static=s
        > 14 FencedInstanceId id=s#1
        30 beat id=s#1 gen=2
        > 15 UnknownMemberId
        30 beat id=s#4@14 gen=2 static=s
        > 16 ok
        30 beat id=s#4@14 gen=2 static=unknown
        > 17 UnknownMemberId
        30 describe
        > 18 g Stable consumer/range s#4@14:s:a:m:x t#3@a:t:b:m:y
        # a leader that joins with its id wants to share out anew
        40 join client=a id=s#4@14 static=s
        41 beat id=t#3@a gen=2 static=t
        > 20 RebalanceInProgress
        42 join client=b id=t#3@a static=t
        > 19 joined id=s#4@14 gen=3 range leader=s#4@14 s#4@14:s:m t#3@a:t:m
        > 21 joined id=t#3@a gen=3 range leader=s#4@14
        ",
    );
}

#[test]
fn a_second_instance_with_the_same_static_id_fences_the_first() {
    check(
        0,
        "
        0 join client=a static=s
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        0 sync id=s#1 gen=1 static=s give=s#1:x
        > 2 assignment=x
        1 join client=b v=3
        # while the first waits for its join
        2 join client=a id=s#1 static=s
        > 3 joined id=b#2@1 gen=2 range leader=s#1
        > 4 joined id=s#1 gen=2 range leader=s#1 b#2@1:-:m s#1:s:m
        3 join client=b id=b#2@1
        > 5 joined id=b#2@1 gen=2 range leader=s#1
        4 sync id=s#1 gen=2 static=s give=s#1:x,b#2@1:y
        > 6 assignment=x
        4 sync id=b#2@1 gen=2
        > 7 assignment=y
        5 join client=c v=3
        6 join client=a id=s#1 static=s
        7 join client=a static=s
        > 9 FencedInstanceId id=s#1
        8 join client=b id=b#2@1
        > 11 joined id=b#2@1 gen=3 range leader=s#4@7
        > 8 joined id=c#3@5 gen=3 range leader=s#4@7
        > 10 joined id=s#4@7 gen=3 range leader=s#4@7 b#2@1:-:m c#3@5:-:m s#4@7:s:m
        # while the first waits for its assignment
        9 sync id=b#2@1 gen=3
        10 join client=a static=s
        > 12 RebalanceInProgress
        11 sync id=s#4@7 gen=3 static=s
        > 14 FencedInstanceId
        12 join client=b id=b#2@1
        13 join client=c id=c#3@5
        > 15 joined id=b#2@1 gen=4 range leader=s#5@a
        > 16 joined id=c#3@5 gen=4 range leader=s#5@a
        > 13 joined id=s#5@a gen=4 range leader=s#5@a b#2@1:-:m c#3@5:-:m s#5@a:s:m
        14 sync id=c#3@5 gen=4 give=s#5@a:x
        ",
    );
}

#[test]
fn a_static_member_that_changes_the_protocol_triggers_a_rebalance() {
    check(
        0,
        "
        0 join client=a static=s protocols=range:1,roundrobin:2
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:1
        0 sync id=s#1 gen=1 static=s give=s#1:x
        > 2 assignment=x
        1 join client=a static=s protocols=roundrobin:2,range:1
        > 3 joined id=s#2@1 gen=2 roundrobin leader=s#2@1 s#2@1:s:2
        # with other metadata only, it does not
        2 sync id=s#2@1 gen=2 static=s give=s#2@1:x
        > 4 assignment=x
        3 join client=a static=s protocols=roundrobin:9,range:1
        > 5 joined id=s#3@3 gen=2 roundrobin leader=s#2@1
        4 describe
        > 6 g Stable consumer/roundrobin s#3@3:s:a:9:x
        ",
    );
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_until_its_session_ends() {
    check(
        0,
        "
        0 join client=a static=s session=30000 rebalance=8000
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        0 sync id=s#1 gen=1 static=s give=s#1:x
        > 2 assignment=x
        1 join client=b v=3 session=30000 rebalance=8000
        # the leader is away: another one leads
        8001 wait
        > 3 joined id=b#2@1 gen=2 range leader=b#2@1 b#2@1:-:m s#1:s:m
        8001 sync id=b#2@1 gen=2 give=s#1:x,b#2@1:y
        > 5 assignment=y
        # one that does not ask for its assignment goes, static or not
        16001 wait
        16001 describe
        > 7 g PreparingRebalance consumer/ b#2@1:-:b::y
        ",
    );
}

#[test]
fn static_members_that_are_all_away() {
    check(
        0,
        "
        0 join client=a static=s session=30000 rebalance=8000
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        0 sync id=s#1 gen=1 static=s give=s#1:x
        > 2 assignment=x
        100 join client=b
        > 3 MemberIdRequired id=b#2@64
        200 join client=b id=b#2@64 rebalance=0
        300 leave id=b#2@64
        > 4 UnknownMemberId id=
        > 5 ok
        8200 wait
        8200 describe
        > 7 g PreparingRebalance consumer/ s#1:s:a::x
        16200 wait
        29999 wait
        30000 wait
        30000 describe
        > 11 g Empty consumer/
        # the one that is left allows no time to join: it is given some
        40000 join client=b v=3 rebalance=8000
        > 12 joined id=b#3@9c40 gen=3 range leader=b#3@9c40 b#3@9c40:-:m
        40000 sync id=b#3@9c40 gen=3 give=b#3@9c40:x
        > 13 assignment=x
        40001 join client=a static=s rebalance=0
        40002 join client=b id=b#3@9c40 rebalance=8000
        > 15 joined id=b#3@9c40 gen=4 range leader=b#3@9c40 b#3@9c40:-:m s#4@9c41:s:m
        > 14 joined id=s#4@9c41 gen=4 range leader=b#3@9c40
        40003 sync id=b#3@9c40 gen=4
        > 16 assignment=
        40003 sync id=s#4@9c41 gen=4
        > 17 assignment=
        40004 leave id=b#3@9c40
        > 18 ok
        40500 beat id=s#4@9c41 gen=4 static=s
        > 19 RebalanceInProgress
        46499 wait
        46500 describe
        > 21 g Empty consumer/
        ",
    );
}

#[test]
fn corners_that_a_broker_has() {
    check(
        0,
        "
        0 join v=5 client=a static=s rebalance=4000
        > 1 joined id=s#1 gen=1 range leader=s#1 s#1:s:m
        0 join v=5 client=b static=t rebalance=4000
        0 join client=a id=s#1 static=s rebalance=4000
        > 3 joined id=s#1 gen=2 range leader=s#1 s#1:s:m t#2:t:m
        > 2 joined id=t#2 gen=2 range leader=s#1
        0 sync id=s#1 gen=2 static=s give=s#1:x
        > 4 assignment=x
        # the second owes its sync; its successor cannot settle that, and all join again
        1 join client=b static=t rebalance=4000
        > 5 joined id=t#3@1 gen=2 range leader=s#1
        2 sync id=t#3@1 gen=2 static=t
        > 6 assignment=
        3500 beat id=s#1 gen=2 static=s
        > 7 ok
        3500 beat id=t#3@1 gen=2 static=t
        > 8 ok
        5000 beat id=s#1 gen=2 static=s
        > 9 RebalanceInProgress
        5000 join client=a id=s#1 static=s rebalance=4000
        5000 join client=b id=t#3@1 static=t rebalance=4000
        > 10 joined id=s#1 gen=3 range leader=s#1 s#1:s:m t#3@1:t:m
        > 11 joined id=t#3@1 gen=3 range leader=s#1
        5000 sync id=s#1 gen=3 static=s give=t#3@1:y
        > 12 assignment=
        5000 sync id=t#3@1 gen=3 static=t
        > 13 assignment=y
        # a member that got an id and leaves has others join again
        5100 join client=c
        > 14 MemberIdRequired id=c#4@13ec
        5100 leave id=c#4@13ec
        > 15 ok
        5100 beat id=s#1 gen=3 static=s
        > 16 RebalanceInProgress
        5100 join client=b id=t#3@1 static=t rebalance=4000
        5100 join client=a id=s#1 static=s rebalance=4000
        > 18 joined id=s#1 gen=4 range leader=s#1 s#1:s:m t#3@1:t:m
        > 17 joined id=t#3@1 gen=4 range leader=s#1
        5100 sync id=s#1 gen=4 static=s give=t#3@1:z,stranger:z
        > 19 assignment=
        5100 sync id=t#3@1 gen=4 static=t
        > 20 assignment=z
        # one that joined no more than the first time goes when it does not sync
        5200 join client=d v=3 rebalance=4000
        5200 join client=a id=s#1 static=s rebalance=4000
        5200 join client=b id=t#3@1 static=t rebalance=4000
        > 21 joined id=d#5@1450 gen=5 range leader=s#1
        > 22 joined id=s#1 gen=5 range leader=s#1 d#5@1450:-:m s#1:s:m t#3@1:t:m
        > 23 joined id=t#3@1 gen=5 range leader=s#1
        5200 sync id=s#1 gen=5 static=s give=s#1:p,t#3@1:q
        > 24 assignment=p
        5200 sync id=t#3@1 gen=5 static=t
        > 25 assignment=q
        8000 beat id=s#1 gen=5 static=s
        > 26 ok
        8000 beat id=t#3@1 gen=5 static=t
        > 27 ok
        10500 beat id=s#1 gen=5 static=s
        > 28 RebalanceInProgress
        10500 describe
        > 29 g PreparingRebalance consumer/ s#1:s:a::p t#3@1:t:b::q
        ",
    );
}
