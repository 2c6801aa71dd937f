//! GradES: the method, without a tensor framework.
