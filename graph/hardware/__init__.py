"""The dtypes that a device computes in, and the policy that follows from them."""
