"""Do faults page, once and for the right reason, and does health stay quiet?"""
