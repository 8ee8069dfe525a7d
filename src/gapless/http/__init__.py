"""What every route needs: authentication, answers, cursors, streams."""
