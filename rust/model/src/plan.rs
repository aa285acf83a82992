//! Plans: small graphs of steps, and what a saga publishes along them, forward and undoing.

/// Steps of a plan, a bit each.
pub type Steps = u8;

/// The most steps that a plan of the model has.
pub const STEPS_MAX: usize = 4;

/// The place behind the last steps, where the coordinator ends the saga or its undoing.
pub const END: usize = STEPS_MAX;

/// The steps of a set, lowest first.
pub fn each(steps: Steps) -> impl Iterator<Item = usize> {
    (0..STEPS_MAX).filter(move |&step| has(steps, step))
}

/// Whether a step is in a set.
pub fn has(steps: Steps, step: usize) -> bool {
    steps & bit(step) != 0
}

/// The set of one step.
pub fn bit(step: usize) -> Steps {
    1 << step
}

/// One way through a graph: the steps on it, and those of them whose way on leads over the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    pub steps: Steps,
    pub arrivals: Steps,
}

/// A graph of slips: which steps come directly before which, and where the coordinator collects arrivals.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Those with nothing before them.
    pub roots: Steps,
    /// Directly before a step, or before the end.
    pub before: [Steps; STEPS_MAX + 1],
    /// The token rides on from a step to these by itself.
    pub next: [Steps; STEPS_MAX],
    /// The join, or the end, where a step's arrival is collected.
    pub target: [Option<usize>; STEPS_MAX],
    /// All ways from a root to the end.
    pub paths: Vec<Path>,
}

impl Graph {
    /// The graph of these members, where `needs` says all that must come before a step, near or far.
    fn new(members: Steps, needs: &[Steps; STEPS_MAX]) -> Self {
        let mut graph =
            Self { roots: 0, before: [0; 5], next: [0; STEPS_MAX], target: [None; STEPS_MAX], paths: Vec::new() };
        for step in each(members) {
            let all = needs[step] & members;
            let far = each(all).fold(0, |far, earlier| far | needs[earlier]);
            graph.before[step] = all & !far;
            if all == 0 {
                graph.roots |= bit(step);
            }
        }
        let followed = each(members).fold(0, |followed, step| followed | graph.before[step]);
        graph.before[END] = members & !followed;
        for place in each(members).chain([END]) {
            let joins = place == END || graph.before[place].count_ones() > 1;
            for step in each(graph.before[place]) {
                if joins {
                    // One arrival a step is all that the model's tokens can name.
                    assert_eq!(graph.target[step], None, "a step leads into two joins");
                    graph.target[step] = Some(place);
                } else {
                    graph.next[step] |= bit(place);
                }
            }
        }
        for root in each(graph.roots) {
            graph.walk(root, Path { steps: 0, arrivals: 0 });
        }
        graph
    }

    /// The graph of these members with nothing before anything.
    pub fn unordered(members: Steps) -> Self {
        Self::new(members, &[0; STEPS_MAX])
    }

    fn walk(&mut self, step: usize, so_far: Path) {
        let path = Path { steps: so_far.steps | bit(step), ..so_far };
        for next in each(self.next[step]) {
            self.walk(next, path);
        }
        if let Some(target) = self.target[step] {
            let path = Path { arrivals: path.arrivals | bit(step), ..path };
            if target == END { self.paths.push(path) } else { self.walk(target, path) }
        }
    }

    /// All arrivals that are collected where this step's is.
    pub fn siblings(&self, step: usize) -> Steps {
        self.target[step].map_or(0, |target| self.before[target])
    }
}

/// A compiled plan.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: &'static str,
    pub steps: Steps,
    /// All that come before a step, near or far.
    pub earlier: [Steps; STEPS_MAX],
    pub pivot: Option<usize>,
    /// What an abort may undo: the steps before the pivot.
    pub compensable: Steps,
    pub forward: Graph,
    /// All that must be undone before a step.
    pub undo_needs: [Steps; STEPS_MAX],
    /// The graphs of compensations, by the set that is to be undone.
    pub undo: Vec<Graph>,
}

/// In which order compensations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// A step before those that came before it; the rest side by side.
    Parallel,
    /// Strictly the reverse order.
    Chain,
}

impl Plan {
    /// Compiles a plan from what stands directly before each step.
    pub fn new(name: &'static str, before: &[Steps], pivot: Option<usize>, undo: Undo) -> Self {
        let steps = ((1u16 << before.len()) - 1) as Steps;
        let mut earlier = [0; STEPS_MAX];
        for (step, &direct) in before.iter().enumerate() {
            earlier[step] = each(direct).fold(direct, |all, at| all | earlier[at]);
        }
        let mut undo_needs = [0; STEPS_MAX];
        for step in each(steps) {
            undo_needs[step] = match undo {
                Undo::Parallel => {
                    each(steps).filter(|&later| has(earlier[later], step)).fold(0, |all, at| all | bit(at))
                }
                Undo::Chain => steps & !(bit(step) | (bit(step) - 1)),
            };
        }
        let compensable = match pivot {
            Some(pivot) => earlier[pivot],
            None => steps,
        };
        let later = pivot.map_or(0, |at| each(steps).filter(|&step| has(earlier[step], at)).count());
        let all = earlier[pivot.unwrap_or(0)].count_ones() as usize + 1 + later;
        assert!(pivot.is_none() || all == before.len(), "every step comes before or after the pivot");
        Self {
            name,
            steps,
            earlier,
            pivot,
            compensable,
            forward: Graph::new(steps, &earlier),
            undo_needs,
            undo: (0..=steps).map(|set| Graph::new(set, &undo_needs)).collect(),
        }
    }

    /// Whether a step is the pivot or comes after it.
    pub fn is_past(&self, step: usize) -> bool {
        self.pivot.is_some_and(|pivot| has(self.earlier[step], pivot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diamond_joins_forward_and_undoing() {
        let plan = Plan::new("diamond", &[0, 0b1, 0b1, 0b110], None, Undo::Parallel);
        assert_eq!(plan.forward.next, [0b110, 0, 0, 0]);
        assert_eq!(plan.forward.target, [None, Some(3), Some(3), Some(END)]);
        assert_eq!(plan.forward.paths.len(), 2);
        let all = &plan.undo[0b1111];
        assert_eq!((all.roots, all.next[3], all.target[1]), (0b1000, 0b110, Some(0)));
        let without_fork = &plan.undo[0b1011];
        assert_eq!((without_fork.next[3], without_fork.next[1]), (0b10, 0b1));
    }

    #[test]
    fn a_chain_undoes_in_reverse() {
        let plan = Plan::new("fork", &[0, 0b1, 0b1], None, Undo::Chain);
        assert_eq!((plan.undo[0b111].roots, plan.undo[0b111].next), (0b100, [0, 0b1, 0b10, 0]));
    }
}
