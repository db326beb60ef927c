//! The computation that several work types share: matrices that are multiplied in place, as schbench does.

/// Three square matrices of a given footprint.
#[derive(Debug)]
pub(super) struct Matrices {
    side: usize,
    left: Vec<u64>,
    right: Vec<u64>,
    product: Vec<u64>,
}

impl Matrices {
    /// Matrices that fill `kib` together.
    pub(super) fn new(kib: usize) -> Self {
        let cells = kib * 1_024 / 3 / size_of::<u64>();
        let side = cells.isqrt().max(2);
        Self {
            side,
            left: vec![3; side * side],
            right: vec![7; side * side],
            product: vec![0; side * side],
        }
    }

    /// Multiplies once, unless `go_on` says no before a row: a slow machine must not keep a worker from stopping.
    pub(super) fn multiply(&mut self, go_on: impl Fn() -> bool) {
        let side = self.side;
        for row in 0..side {
            if !go_on() {
                return;
            }
            for column in 0..side {
                let mut sum = self.product[row * side + column];
                // Plain loops and indices: a build without optimisation runs iterators ten times slower.
                let mut step = 0;
                while step < side {
                    let factor = self.right[step * side + column];
                    sum = sum.wrapping_add(self.left[row * side + step].wrapping_mul(factor));
                    step += 1;
                }
                self.product[row * side + column] = sum;
            }
        }
        std::hint::black_box(&self.product);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_right() {
        let mut matrices = Matrices::new(1);
        matrices.multiply(|| true);
        let wanted = 21 * matrices.side as u64;
        assert!(matrices.product.iter().all(|cell| *cell == wanted));
    }
}
