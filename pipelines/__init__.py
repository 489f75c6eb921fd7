"""One thin file per DVC stage and Prefect flow; everything else is in mmlop/."""
