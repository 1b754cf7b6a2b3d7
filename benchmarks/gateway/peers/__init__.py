"""Runners of the proxies that need one; each is a program that serves until SIGTERM."""
