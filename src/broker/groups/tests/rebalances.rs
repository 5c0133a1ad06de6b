use super::check;

#[test]
fn two_members_join_and_sync_and_a_third_triggers_a_rebalance() {
    check(0, "
        0 join client=a
        0 join client=a id=a#1
        0 sync id=a#1 gen=1 give=a#1:x
    ");
}
