//! Histories made by hand, right and wrong: what the models and the search for an order are to say of them.

use proptest::prelude::*;

use crate::judge::against_the_model;
use crate::linear::{Nanos, Operation, Refusal, linearize};
use crate::model::{Context, Mutex, Permits, Step};
use crate::record::Object;

const A: Context = 1;
const B: Context = 2;
const C: Context = 3;

/// Every context has a session of its own in these.
fn enter(context: Context) -> Step {
    Step::Entered { context, session: context.into(), fence: None }
}

fn enter_under(context: Context, fence: u64) -> Step {
    Step::Entered { context, session: context.into(), fence: Some(fence) }
}

fn leave(context: Context) -> Step {
    Step::Left { context }
}

fn take(context: Context, permits: u32) -> Step {
    Step::Acquired { claim: (context, 1), session: context.into(), permits }
}

fn give_back(context: Context) -> Step {
    Step::Released { claim: (context, 1) }
}

fn ended(context: Context) -> Step {
    Step::Ended { session: context.into() }
}

fn during(invoked: Nanos, answered: Nanos, step: Step) -> Operation<Step> {
    Operation { invoked, answered: Some(answered), optional: false, step, who: String::new() }
}

/// It may have happened, from then on.
fn perhaps(invoked: Nanos, step: Step) -> Operation<Step> {
    Operation { invoked, answered: None, optional: true, step, who: String::new() }
}

/// One after the other.
fn sequence(steps: impl IntoIterator<Item = Step>) -> Vec<Operation<Step>> {
    let at = |(place, step)| during(10 * place as Nanos, 10 * place as Nanos + 5, step);
    steps.into_iter().enumerate().map(at).collect()
}

use Object::{Fenced, OwnerAware, Permits as Semaphore, Reentrant, ReentrantFenced};

/// The wrong ones, each as short as it can be.
fn wrong() -> Vec<(&'static str, Object, Vec<Operation<Step>>)> {
    let lost_early = vec![during(0, 1, enter(A)), during(2, 5, enter(B)), perhaps(6, ended(A))];
    let late_unlock = vec![
        during(0, 1, enter(A)),
        // Settled by the next call, so that it has no effect after that.
        Operation { answered: Some(5), ..perhaps(2, leave(A)) },
        during(6, 7, Step::Counted { context: A, count: 1 }),
        during(8, 9, enter(B)),
    ];
    let given_back_late = vec![during(0, 1, take(A, 3)), during(2, 5, take(B, 1)), perhaps(6, give_back(A))];
    let mut semaphore_end = sequence([take(A, 3), take(B, 1)]);
    semaphore_end.push(perhaps(16, ended(A)));
    vec![
        ("two holders, one after the other", OwnerAware, sequence([enter(A), enter(B)])),
        ("two holders at once", OwnerAware, vec![during(0, 10, enter(A)), during(0, 10, enter(B))]),
        ("it enters twice", OwnerAware, sequence([enter(A), enter(A)])),
        ("a stranger unlocks", OwnerAware, sequence([enter(A), leave(B)])),
        ("nobody holds what is unlocked", OwnerAware, sequence([leave(A)])),
        ("it is unlocked twice", OwnerAware, sequence([enter(A), leave(A), leave(A)])),
        ("the owner is told that it is none", OwnerAware, sequence([enter(A), Step::NotOwner { context: A }])),
        ("the limit of who holds nothing", OwnerAware, sequence([Step::LimitReached { context: A }])),
        ("another is granted it before the first has lost it", OwnerAware, lost_early),
        ("an unlocking takes effect after it was settled", OwnerAware, late_unlock),
        ("a session that has ended is granted it", OwnerAware, sequence([ended(A), enter(A)])),
        ("another holds it, entered once more", Reentrant, sequence([enter(A), enter(A), leave(A), enter(B)])),
        ("three times, with a limit of two", Reentrant, sequence([enter(A), enter(A), enter(A)])),
        ("the limit before it is reached", Reentrant, sequence([enter(A), Step::LimitReached { context: A }])),
        ("a try to enter again is refused", Reentrant, sequence([enter(A), Step::Refused { context: A }])),
        (
            "a count of one that is two",
            Reentrant,
            sequence([enter(A), enter(A), Step::Counted { context: A, count: 1 }]),
        ),
        ("a count of none that is one", Reentrant, sequence([enter(A), Step::Counted { context: A, count: 0 }])),
        ("unlocked three times", Reentrant, sequence([enter(A), enter(A), leave(A), leave(A), leave(A)])),
        ("the same fence for the next hold", Fenced, sequence([enter_under(A, 5), leave(A), enter_under(B, 5)])),
        ("a lower fence", Fenced, sequence([enter_under(A, 5), leave(A), enter_under(A, 4)])),
        ("a fence that is not the hold's", Fenced, sequence([enter_under(A, 5), Step::Shown { context: A, fence: 6 }])),
        ("the fence of who holds nothing", Fenced, sequence([Step::Shown { context: A, fence: 5 }])),
        ("a lower fence after a loss", Fenced, sequence([enter_under(A, 5), ended(A), enter_under(B, 4)])),
        ("another fence for the same hold", ReentrantFenced, sequence([enter_under(A, 5), enter_under(A, 6)])),
        (
            "a fence between",
            ReentrantFenced,
            sequence([enter_under(A, 5), leave(A), enter_under(B, 7), leave(B), enter_under(A, 6)]),
        ),
        (
            "three times under one fence",
            ReentrantFenced,
            sequence([enter_under(A, 5), enter_under(A, 5), enter_under(A, 5)]),
        ),
        ("four permits of three", Semaphore, sequence([take(A, 2), take(B, 2)])),
        ("permits before others were given back", Semaphore, given_back_late),
        ("permits before a session has ended", Semaphore, semaphore_end),
        ("given back twice", Semaphore, sequence([take(A, 1), give_back(A), give_back(A)])),
        ("given back by who has none", Semaphore, sequence([give_back(A)])),
        (
            "told that they had ended while it holds them",
            Semaphore,
            sequence([take(A, 1), Step::HadEnded { claim: (A, 1) }]),
        ),
    ]
}

/// Right ones, each for what a wrong one above resembles.
fn right() -> Vec<(&'static str, Object, Vec<Operation<Step>>)> {
    let overlapping = vec![during(0, 10, enter(B)), during(1, 2, enter(A)), during(3, 4, leave(A))];
    let lost = vec![during(0, 1, enter(A)), perhaps(2, ended(A)), during(3, 4, enter(B)), during(5, 6, leave(B))];
    let told = vec![during(0, 1, enter(A)), perhaps(2, ended(A)), during(3, 4, Step::NotOwner { context: A })];
    let unlocked = vec![during(0, 1, enter(A)), perhaps(2, leave(A)), during(3, 4, enter(B))];
    let not_unlocked = vec![during(0, 1, enter(A)), perhaps(2, leave(A)), during(3, 4, leave(A))];
    let early_answer = vec![during(0, 20, enter_under(B, 9)), during(1, 2, enter_under(A, 5)), during(3, 4, leave(A))];
    let crossed = vec![during(0, 10, enter_under(A, 5)), during(0, 10, enter_under(B, 4)), during(0, 10, leave(B))];
    let crashed = vec![during(0, 1, take(A, 3)), perhaps(2, ended(A)), during(3, 4, take(B, 3))];
    vec![
        ("nothing", OwnerAware, vec![]),
        ("one after the other", OwnerAware, sequence([enter(A), leave(A), enter(B), leave(B)])),
        ("one waits for the other", OwnerAware, overlapping),
        ("the holder's session ends", OwnerAware, lost),
        ("it is told that it has lost it", OwnerAware, told),
        ("an unlocking without an answer was one", OwnerAware, unlocked),
        ("an unlocking without an answer was none", OwnerAware, not_unlocked),
        ("its limit is one", OwnerAware, sequence([enter(A), Step::LimitReached { context: A }])),
        ("strangers are told so", OwnerAware, sequence([enter(A), Step::NotOwner { context: B }, leave(A)])),
        ("twice and back", Reentrant, sequence([enter(A), enter(A), leave(A), leave(A), enter(B)])),
        ("no third time", Reentrant, sequence([enter(A), enter(A), Step::LimitReached { context: A }])),
        ("counts", Reentrant, sequence([enter(A), enter(A), Step::Counted { context: A, count: 2 }])),
        ("fences grow", Fenced, sequence([enter_under(A, 5), leave(A), enter_under(B, 8), leave(B)])),
        ("who asked first is answered last", Fenced, early_answer),
        ("in the one order in which fences grow", Fenced, crossed),
        ("the same fence within a hold", ReentrantFenced, sequence([enter_under(A, 5), enter_under(A, 5), leave(A)])),
        ("all permits", Semaphore, sequence([take(A, 2), take(B, 1), give_back(A), take(C, 2)])),
        ("a crash frees permits", Semaphore, crashed),
    ]
}

#[test]
fn wrong_histories_are_refused() {
    for (what, object, history) in wrong() {
        let judged = against_the_model(object, &history);
        assert!(matches!(judged, Err(Refusal::Inexplicable { .. })), "{what}: {judged:?}");
    }
}

/// Each is as short as it can be: what makes it wrong is its last answer.
#[test]
fn wrong_histories_are_right_until_their_last_answer() {
    for (what, object, history) in wrong() {
        let last = history.iter().filter_map(|operation| operation.answered).max().unwrap();
        let before = history.iter().cloned().map(|mut operation| {
            if operation.answered == Some(last) {
                (operation.answered, operation.optional) = (None, true);
            }
            operation
        });
        let judged = against_the_model(object, &before.collect::<Vec<_>>());
        assert!(judged.is_ok(), "{what}: {judged:?}");
    }
}

#[test]
fn right_histories_are_accepted() {
    for (what, object, history) in right() {
        let judged = against_the_model(object, &history);
        assert!(judged.is_ok(), "{what}: {judged:?}");
    }
}

#[test]
fn more_under_way_than_can_be_searched_is_not_taken_for_right() {
    let all_at_once = |count: u32| {
        let calls = (0..count).map(|context| during(0, 10, Step::NotOwner { context })).collect::<Vec<_>>();
        linearize(&Mutex::OWNER_AWARE, &calls)
    };
    assert!(all_at_once(8).is_ok());
    assert!(matches!(all_at_once(40), Err(Refusal::TooMuch { .. })), "it may be in too many states");
    assert!(matches!(all_at_once(3000), Err(Refusal::TooMuch { .. })), "there are too many calls");
}

/// Tries every order of every choice of what took effect: what `linearize` is to say, where there is time for it.
fn any_order<M: crate::linear::Model<Step = Step>>(model: &M, history: &[Operation<Step>]) -> bool {
    fn search<M: crate::linear::Model<Step = Step>>(
        model: &M,
        state: &M::State,
        history: &[Operation<Step>],
        rest: &[usize],
    ) -> bool {
        if rest.iter().all(|index| history[*index].optional) {
            return true;
        }
        rest.iter().any(|&next| {
            // Whatever was over before this began must have come before it, if it came at all.
            let over = |other: &&usize| history[**other].answered.is_some_and(|at| at < history[next].invoked);
            let overtakes = rest.iter().filter(over).any(|other| !history[*other].optional);
            let left: Vec<_> =
                rest.iter().copied().filter(|other| *other != next).filter(|other| !over(&other)).collect();
            let after = model.apply(state, &history[next].step);
            !overtakes && after.is_some_and(|after| search(model, &after, history, &left))
        })
    }
    search(model, &model.start(), history, &(0..history.len()).collect::<Vec<_>>())
}

fn steps() -> impl Strategy<Value = Step> {
    let (context, fence) = (1u32..4, 1u64..5);
    let fenced = (context.clone(), fence.clone());
    prop_oneof![
        4 => fenced.clone().prop_map(|(context, fence)| enter_under(context, fence)),
        3 => context.clone().prop_map(leave),
        1 => context.clone().prop_map(|context| Step::NotOwner { context }),
        1 => fenced.prop_map(|(context, fence)| Step::Shown { context, fence }),
        1 => (context.clone(), 0u32..3).prop_map(|(context, count)| Step::Counted { context, count }),
        2 => context.prop_map(ended),
    ]
}

fn permit_steps() -> impl Strategy<Value = Step> {
    let context = 1u32..4;
    prop_oneof![
        3 => (context.clone(), 1u32..3).prop_map(|(context, permits)| take(context, permits)),
        2 => context.clone().prop_map(give_back),
        1 => context.clone().prop_map(|context| Step::HadEnded { claim: (context, 1) }),
        1 => context.prop_map(ended),
    ]
}

fn histories(steps: impl Strategy<Value = Step>) -> impl Strategy<Value = Vec<Operation<Step>>> {
    let operation = (0u64..12, 0u64..6, 0u8..6, steps).prop_map(|(invoked, lasts, kind, step)| {
        let answered = Some(invoked + lasts).filter(|_| kind > 0);
        Operation { invoked, answered, optional: kind < 2, step, who: String::new() }
    });
    prop::collection::vec(operation, 0..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn an_order_is_found_exactly_where_there_is_one(history in histories(steps()), reentrant: bool) {
        let model = if reentrant { Mutex::REENTRANT_FENCED } else { Mutex::FENCED };
        prop_assert_eq!(linearize(&model, &history).is_ok(), any_order(&model, &history));
    }

    #[test]
    fn an_order_of_permits_is_found_exactly_where_there_is_one(history in histories(permit_steps())) {
        let model = Permits { permits: 3 };
        prop_assert_eq!(linearize(&model, &history).is_ok(), any_order(&model, &history));
    }
}
