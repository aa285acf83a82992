//! The hot paths in time: `make bench-cores`.

use criterion::{Criterion, criterion_group, criterion_main};
use sagacore_paths::PATHS;

fn cores(criterion: &mut Criterion) {
    for (name, _, new) in PATHS {
        let mut path = new();
        criterion.bench_function(name, |bencher| bencher.iter(|| path.operate()));
    }
}

criterion_group!(benches, cores);
criterion_main!(benches);
