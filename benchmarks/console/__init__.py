"""How quick is the console over a week of a large fleet?"""
