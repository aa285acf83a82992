//! What a service's steps hold: asked for in the commit that has the effect, let go of in the one that undoes it.

use sagacore_core::fence::{Ask, Holds};
use sagacore_core::mutation::{Mutation, is_broken};
use sagacore_core::wire::{Blocked, Holder};
use sagacore_core::worker::{Phase, Verdict};

use super::activity::Activity;
use super::service::ServiceHost;
use crate::checks::saga_key;
use crate::contention::Want;
use crate::env::Env;
use crate::options::FenceMode;
use crate::schedule::Stage;
use crate::situations::Situation;

fn holder(activity: &Activity) -> Holder {
    let work = &activity.work;
    Holder { saga: work.saga, attempt: work.attempt, place: work.place }
}

impl ServiceHost {
    /// The table: beside the fence, wherever that is.
    fn holds<'a>(&'a mut self, env: &'a mut Env) -> &'a mut Holds {
        match self.mode(env) {
            FenceMode::Memory => &mut self.held,
            _ => &mut env.stores.services[self.service].holds,
        }
    }

    /// Takes what the step is to hold, until `keep` or `let_go`. If it must wait, the call ends here.
    pub(super) fn take_hold(&mut self, env: &mut Env, activity: &mut Activity) -> Option<Stage> {
        let want = env.options.contention.want(env.options.seed, &activity.work)?;
        if activity.work.phase == Phase::Past && !is_broken(Mutation::WaitsPastPivot) {
            return None;
        }
        self.free_ended(env, activity);
        let Want { resource, mode, amount, size } = &want;
        let (holder, age) = (holder(activity), activity.work.age);
        let ask = Ask { resource, mode: *mode, amount: *amount, size: *size, holder, age };
        let in_the_way = match self.holds(env).take(&ask, true) {
            Ok(in_the_way) => in_the_way,
            Err(error) => {
                env.violate("I14", format!("{ask:?} is refused: {error}"));
                return activity.retry();
            }
        };
        if in_the_way.is_empty() {
            let rows = self.holds(env).rows(resource).to_vec();
            let checks = &mut env.checks;
            let judged = checks.holds.granted(&checks.history, self.service, &ask, &rows);
            env.judge(judged);
            return None;
        }
        if activity.work.wounded {
            return self.give_way(env, activity);
        }
        env.reach(Situation::Waited);
        let policy = env.options.contention.policies[self.service];
        let blocked = Blocked { policy, mode: *mode, resource: resource.as_bytes(), holders: in_the_way };
        activity.end(Verdict::Blocked, &blocked.write())
    }

    /// What sagas hold that have ended is taken over.
    fn free_ended(&mut self, env: &mut Env, activity: &Activity) {
        for freed in &activity.work.freed {
            let holds = self.holds(env);
            let before = holds.len();
            holds.free(freed.saga, freed.attempt.get());
            if holds.len() < before {
                env.reach(Situation::TakenOver);
            }
            let judged = env.checks.holds.freed(&env.checks.history, saga_key(freed.saga), freed.attempt.get());
            env.judge(judged);
        }
    }

    /// A call has committed.
    pub(super) fn keep_hold(&mut self, env: &mut Env, activity: &Activity) {
        self.holds(env).keep(holder(activity));
    }

    /// A call has come to nothing, or its step is undone.
    pub(super) fn let_go(&mut self, env: &mut Env, activity: &Activity) {
        self.let_go_of(env, holder(activity), activity.work.undo);
    }

    pub(super) fn let_go_of(&mut self, env: &mut Env, holder: Holder, is_undone: bool) {
        if !(is_undone && is_broken(Mutation::HoldSurvivesUndo)) {
            self.holds(env).release(holder);
            env.checks.holds.released(self.service, holder);
        }
        if is_undone {
            let judged = env.checks.holds.undone(self.service, holder);
            env.judge(judged);
        }
    }

    /// With the fence in memory the core answers for steps that were never called: their claims go all the same.
    pub(super) fn let_go_unasked(&mut self, env: &mut Env) {
        for holder in self.core.take_let_go() {
            self.let_go_of(env, holder, true);
        }
    }
}
