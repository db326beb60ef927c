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
    pub(super) fn new(kib: u32) -> Self {
        let cells = kib as usize * 1_024 / 3 / size_of::<u64>();
        let side = cells.isqrt().max(2);
        Self {
            side,
            left: vec![3; side * side],
            right: vec![7; side * side],
            product: vec![0; side * side],
        }
    }

    /// Multiplies once.
    pub(super) fn multiply(&mut self) {
        let side = self.side;
        for (row, out) in self.product.chunks_exact_mut(side).enumerate() {
            let left = &self.left[row * side..][..side];
            for (column, cell) in out.iter_mut().enumerate() {
                let column = self.right[column..].iter().step_by(side);
                let products = left.iter().zip(column).map(|(a, b)| a.wrapping_mul(*b));
                *cell = products.fold(*cell, u64::wrapping_add);
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
        matrices.multiply();
        let wanted = 21 * matrices.side as u64;
        assert!(matrices.product.iter().all(|cell| *cell == wanted));
    }
}
