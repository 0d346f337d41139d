"""The changes of the tables, oldest first. One that was released is never altered."""
