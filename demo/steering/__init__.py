"""What the Steer tab is made of: what one steers by, how texts are written and shown, and the tab's larger parts."""
