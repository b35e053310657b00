//! What every store promises (`fencron::store`), as facts that are tested against each of them, and what is particular
//! to SQLite and PostgreSQL (which is also reached through a pooler, and under another isolation): several processes on
//! one file, files that are not what they should be, and servers that are not what they were.

mod equivalence;
mod file;
mod fixture;
mod lease;
mod postgres_access;
mod postgres_server;
mod processes;
mod range;
#[path = "../support/mod.rs"]
mod support;
mod txn;
mod watch;

/// Instantiates every fact for every store. Each test gets a fresh store, which is at revision 1.
macro_rules! contract {
    ($($module:ident::$fact:ident,)*) => {
        contract!(memory: fixture::Memory; $($module::$fact,)*);
        contract!(sqlite: fixture::Sqlite; $($module::$fact,)*);
        contract!(etcd: fixture::Etcd; $($module::$fact,)*);
        contract!(postgres: fixture::Postgres; $($module::$fact,)*);
        contract!(postgres_through_a_pooler: fixture::Pooled; $($module::$fact,)*);
        contract!(postgres_at_repeatable_read: fixture::RepeatableRead; $($module::$fact,)*);
    };
    ($name:ident: $fixture:ty; $($module:ident::$fact:ident,)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $fact() {
                    let fixture = <$fixture as fixture::Fixture>::start().await;
                    fixture::soon($module::$fact(&fixture)).await;
                }
            )*
        }
    };
}

contract! {
    txn::a_change_has_a_revision_of_its_own,
    txn::a_transaction_is_at_one_revision,
    txn::a_transaction_that_changes_nothing_has_no_revision_of_its_own,
    txn::a_key_that_comes_again_is_created_anew,
    txn::a_comparison_of_a_key_answers_as_its_order_says,
    txn::a_comparison_of_a_missing_key_sees_revision_0,
    txn::a_comparison_of_a_range_holds_for_every_key_in_it,
    txn::a_comparison_of_an_empty_range_sees_revision_0,
    txn::values_and_leases_are_compared,
    txn::one_failed_comparison_decides_for_the_other_branch,
    txn::operations_see_what_the_ones_before_did,
    txn::a_range_is_deleted_and_counted,
    txn::a_key_is_not_put_twice,
    txn::a_key_is_not_put_and_deleted,
    txn::as_many_operations_as_allowed_are_done_and_no_more,
    txn::an_oversized_value_is_refused,
    txn::of_many_who_take_a_key_one_gets_it,
    range::a_range_is_in_order_and_without_its_end,
    range::a_limit_cuts_and_says_so,
    range::newest_first_pages_go_back_in_time,
    range::values_can_be_left_out,
    range::an_older_revision_is_read_as_it_was,
    range::a_future_revision_is_refused,
    range::a_compacted_revision_is_refused,
    range::all_of_a_large_range_is_at_one_revision,
    lease::a_lease_ends_with_its_keys,
    lease::a_lease_that_is_kept_alive_goes_on,
    lease::a_revoked_lease_ends_at_once,
    lease::what_ended_is_not_kept_alive,
    lease::a_put_with_an_ended_lease_is_refused,
    lease::an_ended_lease_in_the_other_branch_does_no_harm,
    lease::a_put_without_a_lease_takes_the_key_off,
    lease::a_put_with_another_lease_moves_the_key,
    watch::changes_come_in_order_and_once,
    watch::what_changed_at_one_revision_is_in_one_report,
    watch::a_revision_with_very_many_changes_is_in_one_report,
    watch::a_watch_begins_where_it_is_told,
    watch::a_watch_from_the_future_waits_for_it,
    watch::a_watch_hears_of_its_keys_alone,
    watch::the_end_of_a_lease_is_reported_without_traffic,
    watch::a_slow_reader_misses_nothing,
    watch::a_compacted_past_is_said_and_ends_the_watch,
    watch::a_handle_apart_is_the_same_store,
    watch::a_dropped_watch_leaves_the_others,
}
