"""guided-diffusion (Dhariwal & Nichol 2021): its files."""
