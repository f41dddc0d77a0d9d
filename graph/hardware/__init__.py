"""What the devices of this machine compute in, and the policy that follows from it."""
