//! Golden scripts of the cluster's rules. (Being written.)
